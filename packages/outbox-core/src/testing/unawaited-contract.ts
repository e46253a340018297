import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import type { Outbox } from '../outbox.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, sleep, until } from './harness.ts'

const BAD = { big: 1n }
const REFUSED = { code: 'OUTBOX_NOT_SERIALIZABLE' }

type Bus = Pick<OutboxEventBus, 'emit' | 'emitMany'>

/** A bus that refuses events of type `late` some time after they were emitted. */
function refusingLate<Tx, O>(outbox: Outbox<Tx, O>): OutboxEventBus<Record<string, unknown>, Tx> {
  return new OutboxEventBus<Record<string, unknown>, Tx>(outbox as Outbox<Tx>).use({
    async emit({ type }) {
      if (type !== 'late') return
      await sleep(10)
      throw new Error('refused late')
    },
  })
}

/** Promises that nobody awaits: in a transaction a refused one fails the commit, unless somebody handles that. */
export function unawaitedContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('in a transaction, what was refused', () => {
    const late = { message: 'refused late' }
    const forgotten: readonly (readonly [string, (bus: Bus, outbox: Outbox<Tx, O>) => void, object])[] = [
      ['at once', (bus) => void bus.emit('a', BAD), REFUSED],
      ['after the callback has ended', (bus) => void bus.emit('late', {}), late],
      ['at once and was only gone on from', (bus) => void bus.emit('a', BAD).then(() => 'done'), REFUSED],
      ['and was only gone on from', (bus) => void bus.emit('late', {}).then(String), late],
      ['and was gone on from again and again', (bus) => void goingOn(bus.emit('late', {})), late],
      ['and had only a finally', (bus) => void bus.emit('late', {}).finally(() => {}), late],
      ['among many', (bus) => void bus.emitMany([{ type: 'a', payload: BAD }]), REFUSED],
      [
        'by the store',
        (_, outbox) => void outbox.sagaStore('1h', { maxPayloadBytes: 1 }).put('x', new Uint8Array(2)),
        { code: 'OUTBOX_PAYLOAD_TOO_LARGE' },
      ],
      [
        'by the store, after a while',
        (_, outbox) => void outbox.sagaStore('1h').put('x', new Uint8Array(100_000), new Date(0)),
        { code: 'OUTBOX_INVALID_EXPIRY' },
      ],
    ]
    for (const [what, forget, error] of forgotten) {
      test(`${what} and handled by nobody fails the commit`, async (place) => {
        const bus = refusingLate(place.outbox)
        const committing = place.outbox.transaction(async (tx) => {
          await place.writeBusinessRow(tx, 'row')
          await bus.emit('kept', {})
          forget(bus, place.outbox)
        })
        await expect(committing).rejects.toMatchObject(error)
        expect(await place.businessRows()).toEqual([])
        expect(await place.events()).toEqual([])
        expect(await place.payloads()).toEqual([])
      })
    }

    const handled: readonly (readonly [string, (bus: Bus) => Promise<unknown>])[] = [
      [
        'held, and awaited later in a try',
        async (bus) => {
          const held = bus.emit('a', BAD)
          await sleep(5)
          try {
            await held
          } catch {}
        },
      ],
      ['awaited among others', (bus) => Promise.allSettled([bus.emit('a', BAD), bus.emit('late', {})])],
      ['caught', async (bus) => void bus.emit('late', {}).catch(() => {})],
      [
        'caught further on',
        async (bus) =>
          void bus
            .emit('late', {})
            .then(String)
            .catch(() => {}),
      ],
      [
        'caught after a finally',
        async (bus) =>
          void bus
            .emit('late', {})
            .finally(() => {})
            .catch(() => {}),
      ],
      [
        'caught among others',
        (bus) => Promise.all([bus.emit('late', {}), bus.emit('b', {})]).catch(() => {}),
      ],
      ['raced', (bus) => Promise.race([bus.emit('late', {}), sleep(1)])],
    ]
    for (const [how, handle] of handled) {
      test(`and ${how} does not fail the commit`, async (place) => {
        const bus = refusingLate(place.outbox)
        await place.outbox.transaction(async (tx) => {
          await place.writeBusinessRow(tx, 'row')
          await bus.emit('kept', {})
          await handle(bus)
        })
        expect(await place.businessRows()).toEqual(['row'])
        expect((await place.events()).map(({ type }) => type)).toContain('kept')
      })
    }
  })

  describe('in a handler', () => {
    const failing: readonly (readonly [string, (emit: Bus['emit']) => unknown])[] = [
      ['nobody awaited', (emit) => void emit('a', BAD)],
      ['nobody awaited and that is refused late', (emit) => void emit('late', {})],
      ['was only gone on from', (emit) => void goingOn(emit('late', {}))],
      [
        'was held and awaited later',
        async (emit) => {
          const held = emit('a', BAD)
          await sleep(5)
          await held
        },
      ],
      [
        'nobody awaited before the handler failed',
        (emit) => {
          void emit('late', {})
          throw new Error('refused, too')
        },
      ],
    ]
    for (const [what, handle] of failing) {
      test(`an emit that ${what} fails the attempt, and nothing of it is written`, async (place) => {
        const bus = refusingLate(place.outbox)
        const attempts: number[] = []
        bus.on(
          'work',
          async (_, { emit, attempt }) => {
            attempts.push(attempt)
            await emit('kept', {})
            await handle(emit)
          },
          { retry: { maxAttempts: 2, delay: 1 } },
        )
        const id = await bus.emit('work', {})
        await bus.start()
        await dead(place, 1)
        // What is refused late is refused by now, after its attempt has ended.
        await sleep(20)
        await bus.stop()
        expect(attempts).toEqual([1, 2])
        expect(await place.events()).toMatchObject([{ id, state: 'dead' }])
        const [letter] = (await place.outbox.deadLetters.list()).letters
        expect(letter?.error).toMatch(/NOT_SERIALIZABLE|refused/)
      })
    }

    test('an emit whose failure is handled does not fail the attempt', async (place) => {
      const bus = refusingLate(place.outbox)
      bus.on('work', async (_, { emit }) => {
        await Promise.allSettled([emit('a', BAD), emit('late', {})])
        await emit('kept', {})
      })
      await bus.start()
      await Promise.all([bus.emit('work', {}), bus.waitFor('work')])
      await bus.stop()
      expect(await place.events()).toMatchObject([{ type: 'kept' }])
    })

    test('an emit after its attempt has ended is refused, and nothing is stored', async (place) => {
      const bus = refusingLate(place.outbox)
      const reached: string[] = []
      bus.use({ emit: ({ type }) => void reached.push(type) })
      const late: Promise<unknown>[] = []
      const ended = Promise.withResolvers<void>()
      bus.on('returns', (_, { emit }) => {
        late.push(ended.promise.then(() => emit('kept', {})))
      })
      bus.on(
        'slow',
        async (_, { emit, attempt, signal }) => {
          if (attempt > 1) return
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
          late.push(
            ended.promise.then(() => emit('kept', {})),
            emit('justThen', {}),
          )
        },
        { timeout: 20, retry: { maxAttempts: 2, delay: 1 } },
      )
      await bus.start()
      await Promise.all([bus.emit('returns', {}), bus.waitFor('returns')])
      await Promise.all([bus.emit('slow', {}), bus.waitFor('slow')])
      for (const one of late) one.catch(() => {})
      ended.resolve()
      const results = await Promise.allSettled(late)
      await bus.stop()
      expect(results).toHaveLength(3)
      for (const result of results)
        expect(result).toMatchObject({ status: 'rejected', reason: { code: 'OUTBOX_TRANSACTION_CLOSED' } })
      expect(await place.events()).toEqual([])
      // Neither has any middleware put its payload somewhere.
      expect(reached).not.toContain('kept')
    })

    const thenable = (then: PropertyDescriptor): object => Object.defineProperty({}, 'then', then)
    const later = (resolve: (value: unknown) => void) => setTimeout(resolve, 5, [1])
    const returned: readonly (readonly [string, () => unknown])[] = [
      ['a number', () => 7],
      ['a result set', () => ({ rows: [{ n: 1 }], rowCount: 1 })],
      ['null', () => null],
      ['a function', () => () => {}],
      ['a query builder', () => thenable({ value: later })],
      ['an object without a prototype', () => Object.create(null)],
    ]
    for (const [what, returning] of returned) {
      test(`returning ${what} completes the event`, async (place) => {
        const bus = refusingLate(place.outbox)
        bus.on('work', returning, { retry: { maxAttempts: 1 } })
        await bus.start()
        await Promise.all([bus.emit('work', {}), bus.waitFor('work')])
        await bus.stop()
        expect(await place.events()).toEqual([])
      })
    }

    test('returning a thenable that fails, or whose `then` throws, fails the attempt', async (place) => {
      const bus = refusingLate(place.outbox)
      const options = { retry: { maxAttempts: 1 } }
      const fails = (_: unknown, reject: (error: Error) => void): void => reject(new Error('a'))
      const throws = (): never => {
        throw new Error('b')
      }
      bus.on('a', () => thenable({ value: fails }), options)
      bus.on('b', () => thenable({ get: throws }), options)
      await bus.start()
      await bus.emit('a', {})
      await bus.emit('b', {})
      await dead(place, 2)
      await bus.stop()
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters.map(({ error }) => error).toSorted()).toEqual(['Error: a', 'Error: b'])
    })
  })
}

function goingOn(emitted: Promise<unknown>): Promise<unknown> {
  let last = emitted
  for (let n = 0; n < 10; n++) last = n % 2 === 0 ? last.then(String) : last.finally(() => {})
  return last
}

async function dead<Tx, O>(place: Place<Tx, O>, count: number): Promise<void> {
  await until(async () => (await place.outbox.stats()).dead === count)
}
