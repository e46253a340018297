import { crc32 } from 'node:zlib'
import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { claimCheck } from '../claims/claim-check.ts'
import type { BusOptions } from '../delivering/bus-options.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import type { Place, RawPayload } from './backend.ts'
import { outage } from './failing.ts'
import { type PlaceTest, until } from './harness.ts'

const KEY = Uint8Array.from({ length: 32 }, (_, index) => index)
const TYPES = ['claimed', 'plain', 'secret', 'unread', 'saga.step'] as const

/** What this process lacks, another one may have: it is asked for a time, and no attempt is counted meanwhile. */
export function lackingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  /** A bus that has everything, and what it handled with which attempt. */
  const able = (place: Place<Tx, O>, options: BusOptions = {}) => {
    const bus = busOn(place, options)
    const handled: Record<string, number> = {}
    const encryption = { current: 'k1', keys: { k1: KEY } }
    bus.use(claimCheck(place.outbox.sagaStore('1d', { encryption }), { threshold: 0, types: ['secret'] }))
    bus.use(claimCheck(place.outbox.sagaStore('1d'), { threshold: 0, types: ['claimed', 'unread'] }))
    for (const type of ['claimed', 'plain', 'secret', 'unread'])
      bus.on(type, (_, { attempt }) => void Object.assign(handled, { [type]: attempt }))
    const step = activity('step', {
      execute(_: object, { attempt }) {
        handled['saga.step'] = attempt
      },
    })
    const engine = new SagaEngine({ bus, store: place.outbox.sagaStore('1d'), activities: [step] })
    const emitAll = async (): Promise<void> => {
      for (const type of ['claimed', 'plain', 'secret', 'unread']) await bus.emit(type, { type })
      await engine.emit(routingSlip('test').add(step, {}))
    }
    return { bus, handled, emitAll }
  }

  /** A bus that lacks a handler, a key, a claim check and an activity. */
  const unable = (place: Place<Tx, O>, options: BusOptions = {}) => {
    const bus = busOn(place, options)
    const handled: string[] = []
    const types = ['secret', 'unread']
    bus.use(claimCheck(place.outbox.sagaStore('1d'), { threshold: 0, types }))
    for (const type of ['claimed', ...types]) bus.on(type, () => void handled.push(type))
    const store = place.outbox.sagaStore('1d')
    const engine = new SagaEngine({ bus, store, activities: [] })
    return { bus, engine, handled }
  }

  describe('what a process lacks', () => {
    test('is given back or left alone, not counted, and done by a process that has it', async (place) => {
      const has = able(place)
      const lacks = unable(place)
      await has.emitAll()
      const written = await inNewerFormat(place)
      await lacks.bus.start()
      const taken = ['claimed', 'secret', 'unread']
      await until(async () =>
        (await place.events()).every(({ type, attempt }) => attempt >= 2 || !taken.includes(type)),
      )
      await lacks.bus.stop()
      expect((await place.events()).map(({ state }) => state)).toEqual(TYPES.map(() => 'waiting'))
      await place.overwritePayload(written.id, written.data)
      await has.bus.start()
      await until(async () => (await place.events()).length === 0)
      await has.bus.stop()
      expect(has.handled).toEqual(Object.fromEntries(TYPES.map((type) => [type, 1])))
      expect(lacks.handled).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('for longer than an event is put off for ends as a dead letter with the reason', async (place) => {
      const { bus, handled } = unable(place, { deferFor: 300 })
      await able(place).emitAll()
      await inNewerFormat(place)
      await bus.emit('saga.step', { v: 2 })
      await bus.start()
      await until(async () => (await place.outbox.stats()).dead === TYPES.length + 1)
      await bus.stop()
      const { letters } = await place.outbox.deadLetters.list()
      const codes = letters.map(({ type, error }) => [type, /\[(\w+)\]/.exec(error)?.[1]].join(' '))
      expect(codes.toSorted()).toEqual([
        'claimed OUTBOX_CLAIM_UNTAKEN',
        'plain OUTBOX_HANDLER_MISSING',
        'saga.step OUTBOX_HANDLER_MISSING',
        'saga.step OUTBOX_UNSUPPORTED_SLIP',
        'secret OUTBOX_UNKNOWN_KEY',
        'unread OUTBOX_UNSUPPORTED_PAYLOAD',
      ])
      expect(handled).toEqual([])
      // The reason is in the letter, the payload still in its place: it can be retried where it can be handled.
      expect(await place.payloads()).toHaveLength(3)
    })

    test('a payload whose store is down is asked for again, not counted, and its handler gets it', async (place) => {
      const { bus, handled, emitAll } = able(place, { retry: { maxAttempts: 1 }, deferFor: 1 })
      await emitAll()
      const { getPayload } = place.outbox.storage
      let asked = 0
      place.outbox.storage.getPayload = (id, tx) => {
        if (++asked <= 6) return Promise.reject(outage())
        return getPayload.call(place.outbox.storage, id, tx)
      }
      await bus.start()
      await until(async () => (await place.events()).length === 0)
      await bus.stop()
      expect(asked).toBeGreaterThanOrEqual(7)
      expect(handled).toEqual(Object.fromEntries(TYPES.map((type) => [type, 1])))
    })
  })
}

function busOn<Tx, O>({ outbox }: Place<Tx, O>, options: BusOptions): OutboxEventBus {
  return new OutboxEventBus(outbox, { poll: { max: 50 }, retry: { maxAttempts: 2, delay: 1 }, ...options })
}

/** Makes the payload of the event `unread` one that a later version might have written. */
async function inNewerFormat<Tx, O>(place: Place<Tx, O>): Promise<RawPayload> {
  const event = (await place.events()).find(({ type }) => type === 'unread')
  const written = (await place.payloads()).find(({ id }) => id === event?.headers['outbox-claim'])
  if (!written) throw new Error('the payload is not in the store')
  const newer = Buffer.from(written.data)
  newer[2] = 2
  newer.writeUInt32BE(crc32(newer.subarray(8), crc32(newer.subarray(0, 4))), 4)
  await place.overwritePayload(written.id, newer)
  return { ...written, data: Uint8Array.from(written.data) }
}
