import { describe, expect } from 'vitest'
import { PermanentError, RetryLaterError } from '../delivering/attempt-errors.ts'
import { busOn } from './bus-fixtures.ts'
import { type PlaceTest, sleep, until } from './harness.ts'

/** The dispatcher: every event at least once, settled by whoever holds its lease, and by nobody else. */
export function busContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('bus', () => {
    test('hands an event to its handler, then deletes it', async ({ outbox, events }) => {
      const bus = busOn(outbox)
      const seen: unknown[] = []
      bus.on('work', ({ id, type, payload, headers, createdAt }, { attempt }) => {
        seen.push({ id, type, payload, headers, attempt, date: createdAt instanceof Date })
      })
      await bus.start()
      const [id] = await Promise.all([
        bus.emit('work', { n: 1 }, { headers: { tenant: 'a' } }),
        bus.waitFor('work'),
      ])
      expect(seen).toEqual([
        { id, type: 'work', payload: { n: 1 }, headers: { tenant: 'a' }, attempt: 1, date: true },
      ])
      await bus.stop()
      expect(await events()).toEqual([])
    })

    test('handles what was emitted before it started, in many batches, each event once', async ({
      outbox,
      events,
    }) => {
      const bus = busOn(outbox, { batchSize: 20, concurrency: 7 })
      const seen: number[] = []
      let running = 0
      let most = 0
      bus.on('work', async ({ payload }) => {
        most = Math.max(most, ++running)
        await sleep(1)
        seen.push(payload.n)
        running--
      })
      for (let from = 0; from < 200; from += 50) {
        await bus.emitMany(
          Array.from({ length: 50 }, (_, index) => ({ type: 'work', payload: { n: from + index } })),
        )
      }
      await bus.start()
      await until(() => seen.length >= 200)
      await bus.stop()
      expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 200 }, (_, index) => index))
      expect(most).toBeLessThanOrEqual(7)
      expect(most).toBeGreaterThan(1)
      expect(await events()).toEqual([])
    })

    test('wakes after a commit without waiting for the next poll', async ({ outbox }) => {
      const bus = busOn(outbox, { poll: { min: '10m', max: '10m' } })
      bus.on('work', () => {})
      await bus.start()
      await Promise.all([outbox.transaction(() => bus.emit('work', { n: 1 })), bus.waitFor('work')])
      await Promise.all([bus.emit('work', { n: 2 }, { delay: 30 }), bus.waitFor('work')])
      await bus.stop()
    })

    test('retries with growing delays, then buries with the reason', async ({ outbox, events }) => {
      const bus = busOn(outbox, { retry: { maxAttempts: 3, delay: 1 } })
      const attempts: number[] = []
      bus.on('work', (_, { attempt }) => {
        attempts.push(attempt)
        throw new TypeError('broken')
      })
      await bus.start()
      const id = await bus.emit('work', { n: 1 })
      await until(async () => (await outbox.stats()).dead === 1)
      await bus.stop()
      expect(attempts).toEqual([1, 2, 3])
      const { letters } = await outbox.deadLetters.list()
      expect(letters).toMatchObject([{ id, payload: { n: 1 }, attempts: 3, error: 'TypeError: broken' }])
      expect(await events()).toMatchObject([{ id, state: 'dead' }])
    })

    test('a dead letter that is retried gets all its attempts again', async ({ outbox }) => {
      const bus = busOn(outbox, { retry: { maxAttempts: 2, delay: 1 } })
      const attempts: number[] = []
      let mended = false
      bus.on('work', (_, { attempt }) => {
        attempts.push(attempt)
        if (!mended || attempt < 2) throw new Error('no')
      })
      await bus.start()
      const id = await bus.emit('work', { n: 1 })
      await until(async () => (await outbox.stats()).dead === 1)
      mended = true
      await Promise.all([outbox.deadLetters.retry(id), bus.waitFor('work')])
      await bus.stop()
      expect(attempts).toEqual([1, 2, 1, 2])
    })

    test('buries at once what can’t get better, and normalizes what is no Error', async ({ outbox }) => {
      const bus = busOn(outbox)
      bus.on('work', () => {
        throw new PermanentError('never')
      })
      bus.on('next', () => Promise.reject('a string') as Promise<void>, { retry: { maxAttempts: 1 } })
      await bus.start()
      await bus.emit('work', { n: 1 })
      await bus.emit('next', { n: 1 })
      await until(async () => (await outbox.stats()).dead === 2)
      await bus.stop()
      const errors = (await outbox.deadLetters.list()).letters.map(({ attempts, error }) => [attempts, error])
      expect(errors.toSorted()).toEqual([
        [1, 'Error: a non-Error was thrown: "a string"'],
        [1, 'PermanentError [OUTBOX_PERMANENT]: never'],
      ])
    })

    test('lets a handler choose its next attempt', async ({ outbox }) => {
      const bus = busOn(outbox, { retry: { delay: '1h', maxDelay: '1h' } })
      bus.on('work', (_, { attempt }) => {
        if (attempt === 1) throw new RetryLaterError('soon', 5)
      })
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }), bus.waitFor('work')])
      await bus.stop()
    })

    test('an event without a handler here waits for another process, and ends as a dead letter in time', async ({
      outbox,
    }) => {
      const bus = busOn(outbox, { deferFor: '1s' })
      await bus.start()
      await bus.emit('other', { n: 1 })
      await sleep(300)
      expect((await outbox.stats()).dead).toBe(0)
      await until(async () => (await outbox.stats()).dead === 1)
      await bus.stop()
      expect((await outbox.deadLetters.list()).letters[0]?.error).toContain('no worker has a handler')
    })

    test('what a handler emits is written with its completion: once, and only if it succeeds', async ({
      outbox,
    }) => {
      const bus = busOn(outbox)
      const seen: number[] = []
      bus.on('work', async ({ payload }, { attempt, emit }) => {
        await emit('next', { n: -1 })
        if (attempt === 1) throw new Error(`first attempt at ${payload.n}`)
      })
      bus.on('other', async ({ payload }, context) => {
        void context.emit('next', { n: payload.n })
        await context.emit('next', { n: payload.n + 1 })
        if (context.attempt === 1) throw new Error('after emitting')
      })
      bus.on('next', ({ payload }) => {
        seen.push(payload.n)
      })
      await bus.start()
      await Promise.all([bus.emit('work', { n: 0 }), bus.waitFor('work')])
      await bus.emit('other', { n: 10 })
      await until(() => seen.length >= 3)
      await sleep(50)
      await bus.stop()
      expect(seen.toSorted((a, b) => a - b)).toEqual([-1, 10, 11])
      expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
    })

    test('keeps completed events for the retention, and their ids taken', async ({ outbox, events }) => {
      const bus = busOn(outbox, { retention: '1h' })
      let runs = 0
      bus.on('work', () => {
        runs++
      })
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }, { id: 'once' }), bus.waitFor('work')])
      await bus.emit('work', { n: 1 }, { id: 'once' })
      await sleep(50)
      await bus.stop()
      expect(runs).toBe(1)
      expect(await events()).toMatchObject([{ id: 'once', state: 'done' }])
    })

    if (!test.traits.singleClient) {
      test('several workers share the work, and no event is handled twice', async (place) => {
        const seen: number[] = []
        const buses = [place.outbox, await place.sibling(), await place.sibling()].map((outbox) => {
          const bus = busOn(outbox, { batchSize: 10 })
          return bus.on('work', async ({ payload }) => {
            await sleep(1)
            seen.push(payload.n)
          })
        })
        await Promise.all(buses.map((bus) => bus.start()))
        for (let from = 0; from < 300; from += 50) {
          await buses[0]?.emitMany(
            Array.from({ length: 50 }, (_, index) => ({ type: 'work', payload: { n: from + index } })),
          )
        }
        await until(() => seen.length >= 300)
        await Promise.all(buses.map((bus) => bus.stop()))
        expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 300 }, (_, index) => index))
      })
    }
  })
}
