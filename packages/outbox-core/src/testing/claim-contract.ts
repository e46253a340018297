import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { type ClaimCheckOptions, claimCheck } from '../claims/claim-check.ts'
import type { OutboxSagaStore, SagaStoreAdapter } from '../claims/saga-store.ts'
import { RetryLaterError } from '../delivering/attempt-errors.ts'
import type { Outbox } from '../outbox.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, recordingLogger, until } from './harness.ts'

const LARGE = { text: 'large '.repeat(5_000) }

interface Events {
  readonly big: typeof LARGE
}

/** Claim checks: large payloads beside their events, in the same write, and gone with them. */
export function claimContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  const busOn = (outbox: Outbox<Tx, O>, store: SagaStoreAdapter, options: ClaimCheckOptions = {}) =>
    new OutboxEventBus<Events, Tx>(outbox as Outbox<Tx>, {
      retry: { maxAttempts: 2, delay: 1 },
      poll: { max: 50 },
    }).use(claimCheck(store, options))

  describe('claim check', () => {
    test('stores a large payload as binary, hands it to the handler, removes it with the event', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
      const seen: unknown[] = []
      bus.on('big', ({ payload }) => {
        seen.push(payload)
      })
      await bus.emit('big', LARGE)
      const [event] = await place.events()
      const [payload] = await place.payloads()
      expect(event).toMatchObject({ body: 'null', headers: { 'outbox-claim': payload?.id } })
      expect(payload?.data.byteLength).toBeLessThan(1_000)
      await Promise.all([bus.start(), bus.waitFor('big')])
      await bus.stop()
      expect(seen).toEqual([LARGE])
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('leaves payloads up to the threshold in their events', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'), { threshold: 1000 })
      await bus.emit('big', { text: 'x'.repeat(1000 - '{"text":""}'.length) })
      expect(await place.payloads()).toEqual([])
      await bus.emit('big', { text: 'x'.repeat(1001 - '{"text":""}'.length) })
      expect(await place.payloads()).toHaveLength(1)
    })

    test('rolls back with its event', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
      const failing = place.outbox.transaction(async () => {
        await bus.emit('big', LARGE)
        throw new Error('rollback')
      })
      await expect(failing).rejects.toThrow('rollback')
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('a payload that can’t be put keeps its event out', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h', { maxPayloadBytes: 20_000 }))
      await expect(bus.emit('big', LARGE)).rejects.toMatchObject({ code: 'OUTBOX_PAYLOAD_TOO_LARGE' })
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    const damages: [
      string,
      string,
      (place: Parameters<Parameters<typeof test>[1]>[0], id: string) => Promise<void>,
    ][] = [
      ['expired', 'OUTBOX_CLAIM', (place, id) => place.expirePayload(id)],
      [
        'damaged',
        'OUTBOX_CORRUPT_PAYLOAD',
        (place, id) => place.overwritePayload(id, Uint8Array.of(1, 2, 3)),
      ],
      ['missing', 'OUTBOX_CLAIM_NOT_FOUND', ({ outbox }, id) => outbox.sagaStore('1h').delete(id)],
    ]
    for (const [what, code, damage] of damages) {
      test(`an event whose payload is ${what} becomes a dead letter and its handler never runs`, async (place) => {
        const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
        let runs = 0
        bus.on('big', () => {
          runs++
        })
        await bus.emit('big', LARGE)
        await damage(place, (await place.payloads())[0]?.id ?? '')
        await bus.start()
        await until(async () => (await place.outbox.stats()).dead === 1)
        await bus.stop()
        expect(runs).toBe(0)
        expect((await place.outbox.deadLetters.list()).letters[0]?.error).toContain(code)
      })
    }

    test('burying starts the payload’s time to live anew, and a retry finds it', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('2h'), { ttl: '2h' })
      let mended = false
      bus.on('big', () => {
        if (!mended) throw new Error('no')
      })
      await bus.emit('big', LARGE)
      const [put] = await place.payloads()
      await place.outbox.storage.write([
        {
          append: [],
          put: [{ id: put?.id ?? '', data: put?.data ?? new Uint8Array(), expires: { inMs: 60_000 } }],
          remove: [],
        },
      ])
      await bus.start()
      await until(async () => (await place.outbox.stats()).dead === 1)
      expect((await place.payloads())[0]?.expiresAt).toBeGreaterThan(Date.now() + 3_600_000)
      mended = true
      await Promise.all([place.outbox.deadLetters.retry({ all: true }), bus.waitFor('big')])
      await bus.stop()
      expect(await place.payloads()).toEqual([])
    })

    test('a payload outlives the delay of its event', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
      await bus.emit('big', LARGE, { delay: '24h' })
      expect((await place.payloads())[0]?.expiresAt).toBeGreaterThan(Date.now() + 24.5 * 3_600_000)
    })

    test('a payload outlives a retry that is put off for longer than its time to live', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
      bus.on('big', () => {
        throw new RetryLaterError('not before tomorrow', 24 * 3_600_000)
      })
      await bus.emit('big', LARGE)
      await bus.start()
      await until(() => putOff(place))
      await bus.stop()
      const [kept, ...others] = await place.payloads()
      expect(others).toEqual([])
      expect(kept?.expiresAt).toBeGreaterThan(Date.now() + 24.5 * 3_600_000)
    })

    test('a payload is not put again for a retry that it outlives anyway', async (place) => {
      const bus = busOn(place.outbox, place.outbox.sagaStore('1h'))
      bus.on('big', () => {
        throw new RetryLaterError('in a minute', 60_000)
      })
      await bus.emit('big', LARGE)
      const before = await place.payloads()
      await bus.start()
      await until(() => putOff(place))
      await bus.stop()
      expect(await place.payloads()).toEqual(before)
    })

    const logger = recordingLogger()
    const elsewhereTest =
      'with a store elsewhere: put before the event, deleted after it, no event when the put fails'
    test(
      elsewhereTest,
      async (place) => {
        const elsewhere = new MapStore()
        const bus = busOn(place.outbox, elsewhere, { ttl: '1h' })
        const seen: unknown[] = []
        bus.on('big', ({ payload }) => {
          seen.push(payload)
        })
        elsewhere.failing = true
        await expect(bus.emit('big', LARGE)).rejects.toThrow('elsewhere is down')
        expect(await place.events()).toEqual([])
        elsewhere.failing = false
        await bus.emit('big', LARGE)
        expect(elsewhere.size).toBe(1)
        expect(await place.payloads()).toEqual([])
        await Promise.all([bus.start(), bus.waitFor('big')])
        await until(() => elsewhere.size === 0)
        await bus.stop()
        expect(seen).toEqual([LARGE])
        const logged = logger.lines.map(({ message }) => message)
        expect(logged).toEqual(['payload put failed', 'payload put', 'payload get', 'payload delete'])
        for (const { fields } of logger.lines) expect(fields).toHaveProperty('claimId')
      },
      { logger },
    )

    test('refuses a time to live that ends before the retries do', async ({ outbox }) => {
      const bus = new OutboxEventBus(outbox)
      expect(() => bus.use(claimCheck(outbox.sagaStore('1s')))).toThrow(/option "ttl"/)
      expect(() => outbox.sagaStore(0)).toThrow(/option "ttl"/)
      expect(() => outbox.sagaStore(Number.NaN)).toThrow(/option "ttl"/)
      expect(() => outbox.sagaStore('soon' as '1h')).toThrow(/option "ttl"/)
    })

    test('every store is a SagaStoreAdapter', async ({ outbox }) => {
      const store: SagaStoreAdapter = outbox.sagaStore('1h') satisfies OutboxSagaStore
      await store.initialize()
      await store.put('a', Uint8Array.of(1), new Date(Date.now() + 60_000))
      expect([...((await store.get('a')) ?? [])]).toEqual([1])
      await store.delete('a')
      expect(await store.cleanup()).toBe(0)
    })
  })
}

async function putOff({ events }: Pick<Place<never>, 'events'>): Promise<boolean> {
  const [event] = await events()
  return event?.state === 'waiting' && event.attempt === 1
}

class MapStore implements SagaStoreAdapter {
  failing = false
  readonly #payloads = new Map<string, Uint8Array>()

  get size(): number {
    return this.#payloads.size
  }

  async initialize(): Promise<void> {}

  async put(id: string, data: Uint8Array): Promise<void> {
    if (this.failing) throw new Error('elsewhere is down')
    this.#payloads.set(id, data)
  }

  async get(id: string): Promise<Uint8Array | undefined> {
    return this.#payloads.get(id)
  }

  async delete(id: string): Promise<void> {
    this.#payloads.delete(id)
  }

  async cleanup(): Promise<number> {
    return 0
  }
}
