import { describe, expect } from 'vitest'
import { UnknownKeyError } from '../claims/payload-errors.ts'
import { PermanentError, RetryLaterError } from '../delivering/attempt-errors.ts'
import type { Outcome } from '../storage.ts'
import type { Place, RawEvent } from './backend.ts'
import { busOn } from './bus-fixtures.ts'
import { failingWrites, outage } from './failing.ts'
import { newEvent, type PlaceTest, until } from './harness.ts'
import { rawEvent } from './storage/fixtures.ts'

const RETRY = { maxAttempts: 2, delay: 1, maxDelay: 5 } as const

/** The judgement of failures: where an attempt failed, and what that was down to, says what becomes of its event. */
export function failureContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('a failure before the handler', () => {
    test('that is down to the event buries it with the reason, and no handler sees it', async (place) => {
      const bus = busOn(place.outbox)
      let runs = 0
      bus.on('work', () => void runs++)
      await place.outbox.storage.write([broken('work')])
      await bus.start()
      const [event] = await dead(place, 1)
      await bus.stop()
      expect(event).toMatchObject({ attempt: 1 })
      expect(await reasons(place)).toEqual([expect.stringContaining('is not JSON')])
      expect(runs).toBe(0)
    })

    test('that is down to middleware is tried again, not counted, until it passes', async (place) => {
      const bus = busOn(place.outbox, { retry: { maxAttempts: 1 } })
      let failures = 0
      const attempts: number[] = []
      bus.use({
        handle(_, next) {
          if (failures++ < 3) throw new Error('the middleware is not ready')
          return next()
        },
      })
      bus.on('work', (_, { attempt }) => void attempts.push(attempt))
      await bus.start()
      await Promise.all([bus.emit('work', { n: 1 }), bus.waitFor('work')])
      await bus.stop()
      expect([failures, attempts]).toEqual([4, [1]])
      expect(await place.events()).toEqual([])
    })
  })

  describe('a failure in the handler', () => {
    test('that is down to the event buries it at once, whatever attempts it has left', async (place) => {
      const bus = busOn(place.outbox)
      bus.on('work', () => Promise.reject(new PermanentError('never')))
      const id = await bus.emit('work', { n: 1 })
      await bus.start()
      expect(await dead(place, 1)).toMatchObject([{ id, attempt: 1 }])
      await bus.stop()
      expect(await reasons(place)).toEqual(['PermanentError [OUTBOX_PERMANENT]: never'])
    })

    test('of any other kind is counted, by the policy', async (place) => {
      const bus = busOn(place.outbox, { retry: RETRY })
      const attempts: number[] = []
      const failing =
        (error: Error) =>
        (_: unknown, { attempt }: { readonly attempt: number }): never => {
          attempts.push(attempt)
          throw error
        }
      bus.on('work', failing(outage()))
      bus.on('next', failing(new UnknownKeyError('a key that another process may have')))
      bus.on('other', failing(new TypeError('a mistake')))
      for (const type of ['work', 'next', 'other'] as const) await bus.emit(type, { n: 1 })
      await bus.start()
      const events = await dead(place, 3)
      await bus.stop()
      expect(events.map(({ attempt }) => attempt)).toEqual([2, 2, 2])
      expect(attempts.toSorted()).toEqual([1, 1, 1, 2, 2, 2])
    })

    test('of middleware after it is the handler’s own, and counted', async (place) => {
      const bus = busOn(place.outbox, { retry: RETRY })
      const attempts: number[] = []
      bus.use({
        async handle(_, next) {
          await next()
          throw new Error('after the handler')
        },
      })
      bus.on('work', (_, { attempt }) => void attempts.push(attempt))
      await bus.emit('work', { n: 1 })
      await bus.start()
      await dead(place, 1)
      await bus.stop()
      expect(attempts).toEqual([1, 2])
      expect(await reasons(place)).toEqual(['Error: after the handler'])
    })

    const delays: readonly (readonly [string, unknown, 'soon' | 'far off'])[] = [
      ['NaN', Number.NaN, 'soon'],
      ['nothing', undefined, 'soon'],
      ['text that is no time', 'soon', 'soon'],
      ['less than nothing', -1, 'soon'],
      ['Infinity', Number.POSITIVE_INFINITY, 'far off'],
      ['text', '30s', 'far off'],
      ['a fraction', 30_000.5, 'far off'],
    ]
    for (const [what, delay, when] of delays) {
      test(`whose next attempt is put off by ${what} stands in no one’s way, and is made`, async (place) => {
        const bus = busOn(place.outbox)
        const attempts: number[] = []
        bus.on('work', (_, { attempt }) => {
          attempts.push(attempt)
          if (attempt === 1) throw new RetryLaterError('later', delay as number)
        })
        bus.on('next', () => {})
        const id = await bus.emit('work', { n: 1 })
        await bus.start()
        if (when === 'soon') await until(() => attempts.length === 2)
        else await until(async () => (await rawEvent(place, id))?.state === 'waiting')
        await Promise.all([bus.emit('next', { n: 1 }), bus.waitFor('next')])
        await bus.stop()
        expect(attempts).toEqual(when === 'soon' ? [1, 2] : [1])
        const left = when === 'soon' ? [] : [{ id, state: 'waiting', attempt: 1 }]
        expect(await place.events()).toMatchObject(left)
        expect((await place.events()).length).toBe(left.length)
      })
    }
  })

  describe('a failure in writing the outcome', () => {
    test('that passes is repeated by itself, holds up nobody else, and no handler is called again', async (place) => {
      const bus = busOn(place.outbox, { retry: { maxAttempts: 1 } })
      const seen: number[] = []
      let away = true
      bus.on('work', ({ payload }) => void seen.push(payload.n))
      const ids = await bus.emitMany([1, 2, 3].map((n) => ({ type: 'work', payload: { n } })))
      failingWrites(place.outbox.storage, (outcome) =>
        away && settles(outcome, ids[1]) ? outage() : undefined,
      )
      await bus.start()
      await until(async () => (await place.events()).length === 1)
      expect(await place.events()).toMatchObject([{ id: ids[1], state: 'leased', attempt: 1 }])
      away = false
      await until(async () => (await place.events()).length === 0)
      await bus.stop()
      expect(seen.toSorted()).toEqual([1, 2, 3])
    })
  })
}

function settles({ settle }: Outcome, id: string | undefined): boolean {
  return settle?.id === id
}

let counter = 0

function broken(type: string): Outcome {
  const id = `broken-${counter++}`
  const event = newEvent({ id, type, body: '{"n":' })
  return { append: [event], put: [], remove: [] }
}

/** Resolves with the dead letters once there are so many. */
async function dead<Tx, O>(place: Place<Tx, O>, count: number): Promise<readonly RawEvent[]> {
  await until(async () => (await place.outbox.stats()).dead === count)
  return (await place.events()).filter(({ state }) => state === 'dead')
}

async function reasons<Tx, O>(place: Place<Tx, O>): Promise<readonly string[]> {
  return (await place.outbox.deadLetters.list()).letters.map(({ error }) => error)
}
