import { expect, test } from 'vitest'
import { claimCheck, InMemoryOutbox, OutboxEventBus } from '../src/index.ts'
import { ManualClock, takeDue, until } from '../src/testing/index.ts'

test('all dead letters are revived and discarded, however many pages they fill', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus(outbox, { retry: { maxAttempts: 1 } })
  bus.on('a', () => {
    throw new Error('no')
  })
  await bus.emitMany(Array.from({ length: 250 }, () => ({ type: 'a', payload: {} })))
  const buried = async (): Promise<void> => {
    await bus.start()
    await until(async () => (await outbox.stats()).dead === 250)
    await bus.stop()
  }
  await buried()
  expect(await outbox.deadLetters.retry({ all: true })).toBe(250)
  await buried()
  expect(await outbox.deadLetters.discard({ all: true })).toBe(250)
  expect(await outbox.stats()).toMatchObject({ due: 0, dead: 0 })
})

test('a payload that ran out is told from one that is missing', async () => {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const store = outbox.sagaStore('2h')
  const bus = new OutboxEventBus(outbox, { retry: { maxAttempts: 3, delay: 1 } }).use(
    claimCheck(store, { threshold: 0 }),
  )
  bus.on('a', () => {})
  await bus.emit('a', { n: 1 })
  await clock.advance(2 * 3_600_000)
  await bus.emit('a', { n: 2 })
  const { headers } = (await takeDue(outbox.storage, 2, 1))[1] ?? {}
  await store.delete(headers?.['outbox-claim'] ?? '')
  await clock.advance(10)
  await bus.start()
  await clock.advance(1_000)
  await bus.stop()
  const { letters } = await outbox.deadLetters.list()
  expect(letters.map(({ error }) => /\[(\w+)\]/.exec(error)?.[1])).toEqual([
    'OUTBOX_CLAIM_EXPIRED',
    'OUTBOX_CLAIM_NOT_FOUND',
  ])
})
