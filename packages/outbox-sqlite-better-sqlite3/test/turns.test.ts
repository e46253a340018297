import { OutboxEventBus } from 'outbox-core'
import { sleep, takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { appending, connect, event, open, outboxOn } from './opened.ts'

describe('turns', () => {
  test.each(['transactions', 'single emits'])('a loop of %s does not hold up timers', async (kind) => {
    const outbox = outboxOn(connect(':memory:'))
    await outbox.initialize()
    const bus = new OutboxEventBus(outbox)
    let ticks = 0
    const ticking = setInterval(() => ticks++, 1)
    // Nothing here waits for anything but the outbox, for several times as long as timers may have to wait.
    for (let turn = 0; ticks === 0 && turn < 5_000; turn++) {
      await (kind === 'transactions' ? outbox.transaction(() => bus.emit('a', {})) : bus.emit('a', {}))
    }
    clearInterval(ticking)
    expect(ticks).toBeGreaterThan(0)
  })

  test('a heartbeat goes before transactions that wait', async () => {
    const { outbox, storage } = await open()
    await storage.write([appending(event('a'))])
    const [lease] = await takeDue(storage, 1, 60_000)
    if (!lease) throw new Error('a lease was expected')
    const order: string[] = []
    const first = outbox.transaction(() => sleep(10))
    const queued = [1, 2].map((n) => outbox.transaction(async () => void order.push(`transaction ${n}`)))
    const beat = storage.extend([lease], 60_000).then((lost) => order.push(`heartbeat, ${lost.length} lost`))
    await Promise.all([first, ...queued, beat])
    expect(order).toEqual(['heartbeat, 0 lost', 'transaction 1', 'transaction 2'])
  })
})
