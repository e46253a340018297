import { describe, expect } from 'vitest'
import { LeaseLostError, StoppingError, TimeoutError } from '../delivering/attempt-errors.ts'
import type { LeasedEvent } from '../storage.ts'
import { busOn } from './bus-fixtures.ts'
import { type PlaceTest, sleep, takeDue, until } from './harness.ts'

/** Handlers that are cut short: they took too long, their process died, their lease went to another, the bus stopped. */
export function busStoppingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('bus, cut short', () => {
    test('counts attempts that killed their process, and never runs them again', async (place) => {
      const bus = busOn(place.outbox, { retry: { maxAttempts: 2, delay: 1 } })
      let runs = 0
      bus.on('work', () => {
        runs++
      })
      await bus.emit('work', { n: 1 })
      for (let death = 0; death < 2; death++) {
        expect(await takeDue(place.outbox.storage, 1, 60_000)).toHaveLength(1)
        await place.expireLeases()
      }
      await bus.start()
      await until(async () => (await place.outbox.stats()).dead === 1)
      await bus.stop()
      expect(runs).toBe(0)
      expect((await place.outbox.deadLetters.list()).letters[0]?.error).toContain('the process died')
    })

    test('aborts a handler that takes too long, and tries again', async ({ outbox }) => {
      const bus = busOn(outbox)
      const reasons: unknown[] = []
      bus.on(
        'work',
        async (_, { attempt, signal }) => {
          if (attempt > 1) return
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
          reasons.push(signal.reason)
        },
        { timeout: 30 },
      )
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }), bus.waitFor('work')])
      await bus.stop()
      expect(reasons).toEqual([expect.any(TimeoutError)])
    })

    test('keeps the lease of a handler that takes longer than it', async (place) => {
      const bus = busOn(place.outbox, { lease: 400, heartbeat: 50 })
      let runs = 0
      bus.on('work', async () => {
        runs++
        await sleep(1_000)
      })
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }), bus.waitFor('work')])
      await bus.stop()
      expect(runs).toBe(1)
    })

    test('tells a handler that its lease is gone, and writes nothing of its outcome', async (place) => {
      const bus = busOn(place.outbox, { lease: '1m', heartbeat: 30, poll: { min: '10m', max: '10m' } })
      const reasons: unknown[] = []
      let started = false
      bus.on('work', async (_, { signal, emit }) => {
        started = true
        await emit('next', { n: 1 })
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        reasons.push(signal.reason)
      })
      await bus.start()
      await bus.emit('work', { n: 1 })
      await until(() => started)
      let taken: LeasedEvent | undefined
      await until(async () => {
        await place.expireLeases()
        taken = (await takeDue(place.outbox.storage, 1, 60_000))[0]
        return taken !== undefined
      })
      await until(() => reasons.length > 0)
      await bus.stop()
      expect(reasons[0]).toBeInstanceOf(LeaseLostError)
      expect(await place.events()).toMatchObject([{ state: 'leased', attempt: taken?.attempt }])
    })

    test('stop waits for running handlers and completes them', async ({ outbox, events }) => {
      const bus = busOn(outbox)
      let started = false
      let aborted: boolean | undefined
      bus.on('work', async (_, { signal }) => {
        started = true
        await sleep(100)
        aborted = signal.aborted
      })
      await bus.start()
      await bus.emit('work', { n: 1 })
      await until(() => started)
      await bus.stop()
      expect(await events()).toEqual([])
      expect(aborted).toBe(false)
    })

    test('stop aborts what takes too long and gives every lease back uncounted', async ({
      outbox,
      events,
    }) => {
      const bus = busOn(outbox, { concurrency: 1 })
      const reasons: unknown[] = []
      bus.on('work', async (_, { signal }) => {
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        reasons.push(signal.reason)
        throw signal.reason
      })
      await bus.emitMany([1, 2, 3].map((n) => ({ type: 'work', payload: { n } })))
      await bus.start()
      await until(async () => (await outbox.stats()).leased > 0)
      await bus.stop({ timeout: 20 })
      expect(reasons).toEqual([expect.any(StoppingError)])
      expect((await events()).map(({ state }) => state)).toEqual(['waiting', 'waiting', 'waiting'])
      const leased = await takeDue(outbox.storage, 3, 60_000)
      expect(leased.map(({ attempt, uncounted }) => attempt - uncounted)).toEqual([1, 1, 1])
    })

    test('stop does not end before the lease of a handler that ignores its signal is given back', async ({
      outbox,
      events,
    }) => {
      const bus = busOn(outbox)
      let started = false
      bus.on('work', () => {
        started = true
        return new Promise(() => {})
      })
      await bus.start()
      await bus.emit('work', { n: 1 })
      await until(() => started)
      await bus.stop({ timeout: 0 })
      expect((await events()).map(({ state }) => state)).toEqual(['waiting'])
      const [leased] = await takeDue(outbox.storage, 1, 60_000)
      expect(leased).toMatchObject({ attempt: 2, uncounted: 1 })
    })

    test('starts again after a stop', async ({ outbox }) => {
      const bus = busOn(outbox)
      bus.on('work', () => {})
      await bus.start()
      await bus.start()
      await bus.stop()
      await bus.stop()
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }), bus.waitFor('work')])
      await bus[Symbol.asyncDispose]()
    })
  })
}
