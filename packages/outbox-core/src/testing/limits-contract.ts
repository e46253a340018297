import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { InvalidClaimIdError } from '../claims/payload-errors.ts'
import { InvalidEventError } from '../errors.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { InvalidSlipError } from '../saga/slip-errors.ts'
import { type PlaceTest, takeDue, until } from './harness.ts'

// What a frame without compression adds to its payload.
const FRAME_BYTES = 13

// MongoDB and DynamoDB have limits of their own. What is above them is a cap of ours, which a test need not fill.
const LARGEST_OF_THEIR_OWN = 16 * 1024 * 1024
const INSTEAD_OF_A_CAP = 2 * 1024 * 1024

const capped = (limit: number): number => (limit > LARGEST_OF_THEIR_OWN ? INSTEAD_OF_A_CAP : limit)

/** Names and sizes one below, at and one above what is allowed: what is allowed comes back whole, from every database. */
export function limitsContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('limits', () => {
    test('event ids of 255 and types of 128 characters, and no more', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      const allowed = [
        { id: 'a', type: 't' },
        { id: 'i'.repeat(254), type: 't'.repeat(127) },
        { id: 'i'.repeat(255), type: 't'.repeat(128) },
      ]
      for (const { id, type } of allowed) await bus.emit(type, id, { id })
      const refused = [
        { id: '', type: 't' },
        { id: 'b', type: '' },
        { id: 'i'.repeat(256), type: 't' },
        { id: 'b', type: 't'.repeat(129) },
      ]
      for (const { id, type } of refused) {
        await expect(bus.emit(type, id, { id })).rejects.toThrow(InvalidEventError)
      }
      const stored = (await events()).map(({ id, type }) => ({ id, type }))
      expect(stored).toEqual(expect.arrayContaining(allowed))
      expect(stored).toHaveLength(allowed.length)
    })

    test('headers of 8 KiB with names of 64 characters, and no more', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      const name = 'n'.repeat(64)
      const sized = (bytes: number): Record<string, string> => ({ [name]: `ü${'v'.repeat(bytes - 64 - 2)}` })
      for (const bytes of [8_191, 8_192]) await bus.emit('t', bytes, { headers: sized(bytes) })
      await expect(bus.emit('t', {}, { headers: sized(8_193) })).rejects.toThrow(InvalidEventError)
      await expect(bus.emit('t', {}, { headers: { ['n'.repeat(65)]: '' } })).rejects.toThrow(
        InvalidEventError,
      )
      const stored = (await events()).map(({ headers }) => headers)
      expect(stored).toEqual(expect.arrayContaining([sized(8_191), sized(8_192)]))
      expect(stored).toHaveLength(2)
    })

    test('claim ids of 128 characters, and no more', async ({ outbox, payloads }) => {
      const store = outbox.sagaStore('1h')
      const ids = ['a', 'c'.repeat(127), 'c'.repeat(128)]
      for (const id of ids) await store.put(id, Uint8Array.of(id.length))
      for (const id of ids) expect(await store.get(id)).toEqual(Buffer.of(id.length))
      await expect(store.put('c'.repeat(129), Uint8Array.of(1))).rejects.toThrow(InvalidClaimIdError)
      expect(await payloads()).toHaveLength(ids.length)
    })

    test('slip ids of 200, names of 128 characters and engines of 40 run to their end', async ({
      outbox,
    }) => {
      const longest = activity(`a${'b'.repeat(127)}`, { execute: () => {} })
      const bus = new OutboxEventBus(outbox, { poll: { max: 50 } })
      const name = `e${'n'.repeat(39)}`
      const store = outbox.sagaStore('1d')
      const engine = new SagaEngine({ bus, store, activities: [longest], name })
      const ended = new Set<string>()
      bus.on(`${name}.completed`, ({ payload }) => void ended.add((payload as { slipId: string }).slipId))
      await bus.start()
      const ids = ['s', 's'.repeat(199), 's'.repeat(200)]
      for (const id of ids) await engine.emit(routingSlip('n'.repeat(128), id).add(longest, {}))
      await until(() => ended.size === ids.length)
      await bus.stop()
      expect(() => routingSlip('n', 's'.repeat(201))).toThrow(InvalidSlipError)
      expect(() => routingSlip('n'.repeat(129))).toThrow(InvalidSlipError)
      expect(() => activity(`a${'b'.repeat(128)}`, { execute: () => {} })).toThrow(InvalidSlipError)
      expect(() => new SagaEngine({ bus, store, activities: [], name: `e${'n'.repeat(40)}` })).toThrow(
        /"name"/,
      )
    })

    test('the largest payload that the database takes, and not a byte more', async ({ outbox }) => {
      const own = outbox.storage.limits.payloadBytes
      const chosen = capped(own) === own ? undefined : capped(own)
      const largest = chosen ?? own - FRAME_BYTES
      const store = outbox.sagaStore('1h', {
        compression: 'none',
        ...(chosen !== undefined && { maxPayloadBytes: chosen }),
      })
      for (const bytes of [largest - 1, largest]) {
        const data = Buffer.alloc(bytes, 7)
        await store.put('claim', data)
        expect(data.equals((await store.get('claim')) ?? Buffer.of())).toBe(true)
      }
      const limit = chosen ?? own
      const tooLarge = store.put('claim', new Uint8Array(largest + 1))
      await expect(tooLarge).rejects.toMatchObject({ limit, actual: limit + 1 })
    })

    if (test.traits.singleClient) return

    test('the largest event that the database takes, with the largest of everything beside it', async (place) => {
      const limit = capped(place.outbox.storage.limits.eventBytes)
      const outbox = await place.sibling({ maxEventBytes: limit })
      const bus = new OutboxEventBus(outbox)
      const headers = { ['n'.repeat(64)]: 'v'.repeat(8_128) }
      for (const [index, bytes] of [limit - 1, limit].entries()) {
        const options = { id: `${index}${'i'.repeat(254)}`, headers }
        await bus.emit('t'.repeat(128), 'x'.repeat(bytes - 2), options)
      }
      await expect(bus.emit('t', 'x'.repeat(limit - 1))).rejects.toMatchObject({ limit, actual: limit + 1 })
      const [first, second, ...more] = await takeDue(outbox.storage, 10, 60_000)
      expect([first?.body.length, second?.body.length]).toEqual([limit - 1, limit])
      expect(more).toEqual([])
    })
  })
}
