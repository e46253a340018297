import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { NotSerializableError } from '../errors.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { newEvent, type PlaceTest, recordingLogger, until } from './harness.ts'
import { world } from './saga-fixtures.ts'

/** What means something to SQL, Lua, MongoDB, DynamoDB, Redis keys, paths, formats, JavaScript objects. */
const HOSTILE = [
  "';DROP/**/TABLE/**/outbox_events;--",
  '";DELETE/**/FROM/**/saga_store;--',
  "'||(SELECT/**/version())||'",
  '$1',
  '?',
  ':id',
  '$ne',
  '{"$gt":""}',
  '$where',
  'a.b.$[]',
  "redis.call('FLUSHALL')",
  'KEYS[1]',
  '{x}:due',
  '*',
  '#due_shard',
  'attribute_exists(id)',
  '../../etc/passwd',
  '%s%n',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what an attacker writes
  '${process.exit(1)}',
  '\\u0000',
  '__proto__',
  'constructor',
  'hasOwnProperty',
] as const

const ODD = [...HOSTILE, 'a\nb\r\n', 'NUL \0 inside', 'lone \ud800 surrogate', '😀 é ü', '\u202e', '']

// A busy machine takes its time over two dozen of them.
const PATIENCE_MS = 25_000

const SECRET = 'TOP-SECRET-4711'

/** Ids, headers and payloads that someone meant to do harm with are text, and failures tell nobody what was in them. */
export function hostileContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('hostile input', () => {
    test('event ids are only text: stored, told apart, handled, buried and revived as they are', async (place) => {
      const bus = new OutboxEventBus(place.outbox, { poll: { max: 50 }, retry: { maxAttempts: 1 } })
      const seen: string[] = []
      let mended = false
      bus.on('hostile', ({ id, payload, headers }) => {
        if (!mended) throw new Error('not yet')
        expect([payload, headers['as-header']]).toEqual([{ [`key ${id}`]: id }, id])
        seen.push(id)
      })
      const events = HOSTILE.map((id) => {
        return { type: 'hostile', payload: { [`key ${id}`]: id }, id, headers: { 'as-header': id } }
      })
      await bus.emitMany(events)
      await bus.emitMany(events)
      expect((await place.events()).map(({ id }) => id).toSorted()).toEqual([...HOSTILE].toSorted())
      await bus.start()
      await until(async () => (await place.outbox.stats()).dead === HOSTILE.length, PATIENCE_MS)
      mended = true
      for (const id of HOSTILE) expect(await place.outbox.deadLetters.retry(id), id).toBe(1)
      await until(() => seen.length === HOSTILE.length, PATIENCE_MS)
      await bus.stop()
      expect(seen.toSorted()).toEqual([...HOSTILE].toSorted())
      expect(await place.events()).toEqual([])
    })

    test('headers and payloads come back as they were, whatever is in them', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox, { poll: { max: 50 } })
      const seen: unknown[] = []
      bus.on('odd', ({ payload, headers }) => void seen.push([payload, headers['odd']]))
      await bus.emitMany(ODD.map((odd) => ({ type: 'odd', payload: { odd }, headers: { odd } })))
      await bus.start()
      await until(async () => (await events()).length === 0)
      await bus.stop()
      expect(seen).toHaveLength(ODD.length)
      expect(seen).toEqual(expect.arrayContaining(ODD.map((odd) => [{ odd }, odd])))
    })

    test('slip ids are only text: run, compensated, stuck and resumed as they are', async (place) => {
      const { bus, engine, step, broken, told, ended } = world(place.outbox)
      broken.add('b').add('undo a')
      await bus.start()
      const ids = HOSTILE.filter((_, index) => index % 3 === 0)
      for (const id of ids) {
        await engine.emit(routingSlip('hostile', id).add(step, { name: 'a' }).add(step, { name: 'b' }))
      }
      await ended(ids.length)
      broken.delete('undo a')
      for (const id of ids) expect(await engine.resume(id), id).toBe(true)
      await ended(2 * ids.length)
      await bus.stop()
      expect(told.filter((end) => end === 'compensated: b is broken')).toHaveLength(ids.length)
      expect(await place.payloads()).toEqual([])
    })

    test('nothing that is emitted, merged into variables or logged changes what objects inherit', async (place) => {
      const { bus, engine, step, log } = world(place.outbox)
      const polluting = (): Record<string, unknown> => JSON.parse('{"__proto__": {"polluted": true}}')
      const nested = { constructor: { prototype: { polluted: true } } }
      await expect(
        bus.outbox.transaction(() => engine.emit(routingSlip('p').variables(polluting()))),
      ).rejects.toThrow()
      await expect(
        engine.emit(routingSlip('p').variables({ deep: polluting() }).add(step, { name: 'a' })),
      ).rejects.toThrow(NotSerializableError)
      const hidden = { name: 'a', ...JSON.parse('{"pad": {}}'), list: [polluting()] }
      await expect(engine.emit(routingSlip('p').add(step, hidden))).rejects.toThrow(NotSerializableError)
      await bus.start()
      await engine.emit(routingSlip('p').variables(nested).add(step, { name: 'a' }).add(step, { name: 'b' }))
      await bus.waitFor('saga.completed')
      // What another program has written there is read as JSON, in which the key is one like any other.
      await place.outbox.storage.write([foreign('{"__proto__": {"polluted": true}, "v": 1}')])
      await until(async () => (await place.outbox.stats()).dead === 1)
      await bus.stop()
      expect(log).toEqual(['a', 'b'])
      expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
    })

    const logger = recordingLogger()
    test(
      'failures of every kind tell nobody what was in a payload, nor a key',
      async (place) => {
        const { outbox } = place
        const key = Buffer.alloc(32, SECRET)
        const store = outbox.sagaStore('1d', { encryption: { current: 'k1', keys: { k1: key } } })
        const thrown: unknown[] = []
        const failing = async (call: () => unknown): Promise<void> => {
          try {
            await call()
          } catch (error) {
            thrown.push(error)
          }
        }
        const { bus, engine, step, broken } = world(outbox)
        const untyped = bus as unknown as OutboxEventBus
        untyped.on('bad', () => Promise.reject(new Error('no')), { retry: { maxAttempts: 1 }, timeout: '1s' })
        const emitter = new OutboxEventBus(outbox)
        await emitter.emit('bad', { secret: SECRET }, { id: 'one' })
        await failing(() => emitter.emit('bad', { secret: `${SECRET}2` }, { id: 'one' }))
        await failing(() => emitter.emit('bad', { secret: SECRET.repeat(20_000) }))
        await failing(() => emitter.emit('bad', { secret: SECRET, big: 1n }))
        await failing(() =>
          emitter.emit('bad', { secret: SECRET }, { headers: { odd: 1 as unknown as string } }),
        )
        await failing(() => store.put('claim', Buffer.from(SECRET), new Date(0)))
        await failing(() => outbox.storage.write([foreign(`{"secret": "${SECRET}"}`, { at: 1e300 })]))
        const unfit = { id: 'unfit', data: Buffer.of(1), expires: { at: 1e300 } }
        await failing(() => outbox.storage.write([{ ...foreign(`{"secret": "${SECRET}"}`), put: [unfit] }]))
        await store.put('claim', Buffer.from(SECRET.repeat(20)))
        await failing(() => outbox.sagaStore('1d').get('claim'))
        const other = { current: 'k1', keys: { k1: Buffer.alloc(32, `${SECRET}-other`) } }
        await failing(() => outbox.sagaStore('1d', { encryption: other }).get('claim'))
        await outbox.storage.write([foreign(`{"secret": ${SECRET}`), foreign(`"${SECRET}"`)])
        broken.add('a')
        await engine.emit(
          routingSlip('s').variables({ secret: SECRET }).add(step, { name: 'a', pad: SECRET }),
        )
        await bus.start()
        await bus.waitFor('saga.compensated')
        await until(async () => (await outbox.stats()).dead >= 3)
        await bus.stop()
        expect(thrown.length).toBeGreaterThanOrEqual(7)
        const { letters } = await outbox.deadLetters.list()
        const told = [...logger.lines, ...letters.map(({ error }) => error), ...thrown.flatMap(chainOf)]
        expect(JSON.stringify(told)).not.toContain(SECRET)
        expect(JSON.stringify(told)).not.toContain(key.toString('base64'))
      },
      { logger },
    )
  })
}

let counter = 0

/** A step's event as someone else would write it. */
function foreign(body: string, due: { readonly at: number } | { readonly inMs: number } = { inMs: 0 }) {
  const id = `foreign-${counter++}`
  return {
    append: [newEvent({ id, type: 'saga.step', body, due })],
    put: [],
    remove: [],
  }
}

/** Everything an error says, its causes included. */
function chainOf(thrown: unknown): readonly string[] {
  const told: string[] = []
  for (let error = thrown; error instanceof Error; error = error.cause) {
    told.push(`${error.stack}`, JSON.stringify({ ...error, message: error.message }))
  }
  return told
}
