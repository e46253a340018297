import { expect, test } from 'vitest'
import { InMemoryOutbox, OutboxEventBus, StorageError } from '../src/index.ts'
import { ManualClock } from '../src/testing/index.ts'

const EVENTS = 20
const LEASE_MS = 30_000

const NO_ANSWERS = {
  'hang for ever': () => new Promise<never>(() => {}),
  'fail again and again': () => Promise.reject(new StorageError('a lock', { transient: true })),
}

for (const [what, answer] of Object.entries(NO_ANSWERS)) {
  test.each([1, 3, 6])(
    `outcomes whose writes ${what} hold up nobody else: %s of ${EVENTS}`,
    async (count) => {
      const clock = new ManualClock()
      const outbox = new InMemoryOutbox({ clock, logger: false })
      const bus = new OutboxEventBus<{ work: { n: number } }>(outbox, {
        ...{ concurrency: 1, batchSize: 2, lease: LEASE_MS },
      })
      const stuck = new Set<string>()
      const { storage } = outbox
      const write = storage.write.bind(storage)
      storage.write = (outcomes, ...rest) => {
        const isStuck = outcomes.some(({ settle }) => settle && stuck.has(settle.id))
        return isStuck ? answer() : write(outcomes, ...rest)
      }
      bus.on('work', () => {})
      for (let n = 0; n < EVENTS; n++) {
        const id = await bus.emit('work', { n })
        if (n < count) stuck.add(id)
      }
      await bus.start()
      await clock.advance(2 * LEASE_MS)
      const { due, leased } = await outbox.stats()
      expect({ due, leased }).toEqual({ due: 0, leased: count })
      await Promise.all([bus.stop(), clock.advance(LEASE_MS)])
    },
  )
}
