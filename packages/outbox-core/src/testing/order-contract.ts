import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import type { BusOptions } from '../delivering/bus-options.ts'
import { InvalidEventError } from '../errors.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, sleep, until } from './harness.ts'

/** Events of one key are handled one at a time, in the order in which their transactions committed. */
export function orderContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('order per key', () => {
    test('across types, retries and workers, while other keys go on', async (place) => {
      const order = new Order()
      const workers = [busOn(place), busOn(place)]
      for (const bus of workers) {
        bus.on(['a', 'b'], async ({ payload }, { attempt }) => {
          const { key, n } = payload as { key: string; n: number }
          await order.during(key, n, async () => {
            await sleep(Math.random() * 3)
            if (n % 5 === 3 && attempt === 1) throw new Error('once more')
          })
        })
      }
      const [first] = workers as [OutboxEventBus]
      const keys = ['x', 'y', 'z']
      for (let n = 0; n < 12; n++)
        for (const key of keys) await first.emit(n % 2 ? 'a' : 'b', { key, n }, { key })
      await Promise.all(workers.map((bus) => bus.start()))
      await until(() => order.count === 36, 30_000)
      await Promise.all(workers.map((bus) => bus.stop()))
      for (const key of keys) expect(order.of(key)).toEqual(Array.from({ length: 12 }, (_, n) => n))
      expect(order.sideBySide).toBe(0)
      expect(await place.outbox.stats()).toMatchObject({ due: 0, leased: 0, blocked: 0, dead: 0 })
    })

    test('within a transaction in the order of the calls, also of those nobody awaited', async (place) => {
      const order = new Order()
      const bus = busOn(place)
      bus.use({ emit: (draft) => (draft.payload === 1 ? sleep(20) : undefined) })
      bus.on('a', ({ payload }) => order.note('x', payload as number))
      await place.outbox.transaction(async () => {
        await bus.emit('a', 0, { key: 'x' })
        void bus.emit('a', 1, { key: 'x' })
        void bus.emit('a', 2, { key: 'x' })
        await bus.emitMany([
          { type: 'a', payload: 3, key: 'x' },
          { type: 'a', payload: 4, key: 'x', id: 'chosen' },
          { type: 'a', payload: 5, key: 'x' },
        ])
      })
      await bus.start()
      await until(() => order.count === 6)
      await bus.stop()
      expect(order.of('x')).toEqual([0, 1, 2, 3, 4, 5])
    })

    test('what one process emits at the same time is in the order of the calls', async (place) => {
      const order = new Order()
      const bus = busOn(place)
      bus.on('a', ({ payload }) => order.note('x', payload as number))
      const numbers = Array.from({ length: 20 }, (_, n) => n)
      await Promise.all(numbers.map((n) => bus.emit('a', n, { key: 'x' })))
      await bus.start()
      await until(() => order.count === 20)
      await bus.stop()
      expect(order.of('x')).toEqual(numbers)
    })

    test('a key with much to do costs no round trip for each of its events, and its order holds', async (place) => {
      const order = new Order()
      const bus = busOn(place)
      const attempts: number[] = []
      const { write } = place.outbox.storage
      let settling = 0
      place.outbox.storage.write = (outcomes, ...more) => {
        settling += outcomes.filter(({ settle }) => settle).length
        return write.call(place.outbox.storage, outcomes, ...more)
      }
      bus.on('a', async ({ payload }, { attempt, emit }) => {
        await order.during('x', payload as number, async () => {
          if (payload === 70) attempts.push(attempt)
          if (payload === 70 && attempt < 3) throw new Error('not yet')
          if (payload === 90) await emit('b', 90)
        })
      })
      const told: unknown[] = []
      bus.on('b', ({ payload }) => void told.push(payload))
      const events = Array.from({ length: 120 }, (_, payload) => ({ type: 'a', payload, key: 'x' }))
      // As many as the smallest transaction takes.
      for (let from = 0; from < 120; from += 40) await bus.emitMany(events.slice(from, from + 40))
      await bus.start()
      await until(() => order.count === 120 && told.length === 1)
      await bus.stop()
      expect(order.of('x')).toEqual(events.map(({ payload }) => payload))
      expect([order.sideBySide, attempts, told]).toEqual([0, [1, 2, 3], [90]])
      expect(settling).toBeLessThan(30)
      expect(await place.events()).toEqual([])
    })

    test('a dead letter holds its key until it is retried or discarded', async (place) => {
      const order = new Order()
      const bus = busOn(place, { retry: { maxAttempts: 1 } })
      let mended = false
      bus.on('a', ({ payload }) => {
        if (payload === 1 && !mended) throw new Error('not yet')
        if (payload === 3) throw new Error('never')
        order.note('x', payload as number)
      })
      for (let n = 0; n < 5; n++) await bus.emit('a', n, { key: 'x' })
      await bus.emit('a', 100, { key: 'y' })
      await bus.start()
      await until(async () => (await place.outbox.stats()).dead === 1)
      await until(() => order.count === 2)
      expect(order.of('x').toSorted()).toEqual([0, 100])
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toMatchObject([{ payload: 1, key: 'x', waitingBehind: 3 }])
      expect(await place.outbox.stats()).toMatchObject({ blocked: 3, due: 0 })
      mended = true
      expect(await place.outbox.deadLetters.retry(letters[0]?.id ?? '')).toBe(1)
      await until(async () => (await place.outbox.stats()).dead === 1)
      expect(order.of('x').toSorted()).toEqual([0, 1, 100, 2])
      expect(await place.outbox.deadLetters.discard({ all: true })).toBe(1)
      await until(() => order.count === 5)
      await bus.stop()
      expect(order.of('x').at(-1)).toBe(4)
    })

    test('with onDead: "skip" its key goes on without it', async (place) => {
      const order = new Order()
      const bus = busOn(place, { retry: { maxAttempts: 1 } })
      bus.on(
        'a',
        ({ payload }) => {
          if (payload === 1) throw new Error('never')
          order.note('x', payload as number)
        },
        { onDead: 'skip' },
      )
      for (let n = 0; n < 4; n++) await bus.emit('a', n, { key: 'x' })
      await bus.start()
      await until(() => order.count === 3)
      await bus.stop()
      expect(order.of('x')).toEqual([0, 2, 3])
      expect((await place.outbox.deadLetters.list()).letters).toMatchObject([
        { payload: 1, waitingBehind: 0 },
      ])
    })

    test('what a handler emits into a key comes after what is there', async (place) => {
      const order = new Order()
      const bus = busOn(place)
      bus.on('a', async ({ payload }, { emit }) => {
        order.note('x', payload as number)
        if (payload === 0) await emit('a', 10, { key: 'x' })
      })
      for (let n = 0; n < 3; n++) await bus.emit('a', n, { key: 'x' })
      await bus.start()
      await until(() => order.count === 4)
      await bus.stop()
      expect(order.of('x')).toEqual([0, 1, 2, 10])
    })

    test('named handlers take turns, and the next event waits for all of them', async (place) => {
      const seen: string[] = []
      const bus = busOn(place)
      for (const name of ['mail', 'audit'])
        bus.on('a', ({ payload }) => void seen.push(`${payload} ${name}`), { name })
      for (let n = 0; n < 3; n++) await bus.emit('a', n, { key: 'x' })
      await bus.start()
      await until(() => seen.length === 6)
      await bus.stop()
      expect(seen).toEqual(['0 mail', '0 audit', '1 mail', '1 audit', '2 mail', '2 audit'])
    })

    test('slips of one key run one after the other, from start to end', async (place) => {
      const seen: string[] = []
      const bus = busOn(place)
      const step = activity('step', {
        async execute({ step: name }: { step: string }, { slipId }) {
          await sleep(2)
          seen.push(`${slipId} ${name}`)
          if (name === 'fail') throw new Error('broken')
        },
        compensate: (_, { slipId }) => void seen.push(`${slipId} undo`),
        retry: { maxAttempts: 1 },
      })
      const engine = new SagaEngine({ bus, store: place.outbox.sagaStore('1d'), activities: [step] })
      const slip = (id: string, ...names: string[]) =>
        names.reduce((so, name) => so.add(step, { step: name }), routingSlip('x', id))
      await engine.emit(slip('1', 'a', 'b', 'c'), { key: 'k' })
      await engine.emit(slip('2', 'a', 'fail'), { key: 'k' })
      await engine.emit(slip('3', 'a'), { key: 'k' })
      await bus.start()
      await until(() => seen.length === 7)
      await bus.stop()
      expect(seen).toEqual(['1 a', '1 b', '1 c', '2 a', '2 fail', '2 undo', '3 a'])
    })

    test('takes no moment of its own, and keys that are texts', async (place) => {
      const bus = busOn(place)
      for (const options of [
        { key: 'k', delay: 1 },
        { key: 'k', deliverAt: new Date() },
        { key: '' },
        { key: 'x'.repeat(256) },
        { key: '\ud800' },
        { key: 'a\0b' },
        { key: 7 as never },
      ])
        await expect(bus.emit('a', 1, options)).rejects.toThrow(InvalidEventError)
      expect(await place.events()).toEqual([])
      const seen: unknown[] = []
      bus.on('a', ({ payload }) => void seen.push(payload))
      const keys = ['ü'.repeat(127), '€ "quoted" \\ {tag} *', 'x'.repeat(255)]
      for (const key of keys) for (const n of [0, 1]) await bus.emit('a', `${n} ${key}`, { key })
      await bus.start()
      await until(() => seen.length === 6)
      await bus.stop()
      for (const key of keys)
        expect(seen.filter((one) => String(one).endsWith(key))).toEqual([`0 ${key}`, `1 ${key}`])
    })
  })
}

/** What was handled of each key, in what order, and whether two of one key ever were at the same time. */
class Order {
  readonly #byKey = new Map<string, number[]>()
  readonly #running = new Set<string>()
  sideBySide = 0

  get count(): number {
    return [...this.#byKey.values()].reduce((sum, { length }) => sum + length, 0)
  }

  of(key: string): readonly number[] {
    return this.#byKey.get(key) ?? []
  }

  note(key: string, n: number): void {
    this.#byKey.set(key, [...this.of(key), n])
  }

  /** Counts it if it succeeds. */
  async during(key: string, n: number, work: () => Promise<void>): Promise<void> {
    if (this.#running.has(key)) this.sideBySide++
    this.#running.add(key)
    try {
      await work()
      this.note(key, n)
    } finally {
      this.#running.delete(key)
    }
  }
}

function busOn<Tx, O>({ outbox }: Place<Tx, O>, options: BusOptions = {}): OutboxEventBus {
  return new OutboxEventBus(outbox, { poll: { max: 20 }, retry: { delay: 1 }, ...options })
}
