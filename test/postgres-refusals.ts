import { inspect } from 'node:util'
import { type Lease, type NewEvent, OutboxEventBus, type Outcome, type Storage } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { appending, newEvent, settling } from '../packages/outbox-core/src/testing/harness.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

const SECRET = 'SECRET-PAYLOAD'
const LEASE_MS = 60_000
const NO_MOMENTS = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e300, -1e300]
const failed = { code: 'OUTBOX_STORAGE', blame: 'environment' }
const refused = { code: 'OUTBOX_STORAGE', blame: 'event', transient: false }

/** What Postgres, its drivers or we refuse whenever it is sent: it is in the outcome, and nobody else's fault. */
export function postgresRefusals<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)

    test('values that Postgres can’t hold, however they are sent', async () => {
      const { outbox } = await place.initialized(1)
      const { storage } = outbox
      const wrong: [string, Outcome][] = [
        ...unusable().map(([what, changes]): [string, Outcome] => [what, appending(newEvent(changes))]),
        ...NO_MOMENTS.flatMap((value): [string, Outcome][] => [
          [`put expiring in ${value}`, putting({ inMs: value })],
          [`put expiring at ${value}`, putting({ at: value })],
        ]),
      ]
      for (const [what, outcome] of wrong) {
        const beside = appending(newEvent({ id: 'beside' }))
        await expect(storage.write([outcome]), what).rejects.toMatchObject(refused)
        await expect(storage.write([beside, outcome]), `${what}, in a batch`).rejects.toMatchObject(refused)
        const inside = outbox.transaction((tx) => storage.write([outcome], tx))
        await expect(inside, `${what}, in a transaction`).rejects.toMatchObject(refused)
      }
      expect([await place.count('outbox_events'), await place.count('saga_store')]).toEqual([0, 0])
    })

    test('a settlement with such a value leaves its event leased, and can be followed by another one', async () => {
      const { outbox } = await place.initialized(1)
      const { storage } = outbox
      const wrong: ((lease: Lease) => Outcome)[] = [
        ...NO_MOMENTS.flatMap((ms) => [
          (lease: Lease) => settling({ kind: 'retry', ...lease, delayMs: ms, error: null, counted: true }),
          (lease: Lease) => settling({ kind: 'complete', ...lease, keepMs: ms }),
        ]),
        (lease) => settling({ kind: 'bury', ...lease, error: `${SECRET}\0` }),
        (lease) => settling({ kind: 'complete', ...lease, attempt: 5e9, keepMs: 0 }),
      ]
      await storage.write([appending(newEvent({ id: 'a' }), newEvent({ id: 'b' }))])
      const [a, b] = await takeDue(storage, 2, LEASE_MS)
      if (!a || !b) throw new Error('two were written')
      const other = settling({ kind: 'retry', id: b.id, attempt: b.attempt, ...LATER })
      for (const outcome of wrong) {
        await expect(storage.write([outcome(a)])).rejects.toMatchObject(refused)
        await expect(storage.write([other, outcome(a)])).rejects.toMatchObject(refused)
      }
      expect(await storage.extend([a, b], LEASE_MS)).toEqual([])
      expect(await storage.write([settling({ kind: 'bury', ...a, error: 'x' }), other])).toEqual([
        { status: 'applied' },
        { status: 'applied' },
      ])
      await expect(storage.keep('a', Number.NaN)).rejects.toMatchObject(refused)
    })

    test('a moment that is none is refused before anything is sent', async () => {
      const { client, outbox } = await place.initialized(1)
      const { storage } = outbox
      await storage.write([appending(newEvent({ id: 'a' }))])
      const [lease] = await takeDue(storage, 1, LEASE_MS)
      if (!lease) throw new Error('one was written')
      const before = client.statements()
      const { id, attempt } = lease
      const request = { leaseMs: LEASE_MS, addresses: [{ address: 'test.event', limit: 1 }] }
      for (const ms of [Number.NaN, Number.POSITIVE_INFINITY]) {
        for (const outcome of [
          appending(newEvent({ due: { inMs: ms } }), newEvent()),
          putting({ at: ms }),
          settling({ kind: 'retry', id, attempt, delayMs: ms, error: null, counted: true }),
          settling({ kind: 'complete', id, attempt, keepMs: ms }),
        ]) {
          await expect(storage.write([outcome])).rejects.toMatchObject(refused)
          await expect(storage.write([appending(newEvent()), outcome])).rejects.toMatchObject(refused)
        }
        await expect(storage.keep('a', ms)).rejects.toMatchObject(refused)
        await expect(storage.lease({ ...request, limit: ms })).rejects.toMatchObject(refused)
      }
      expect(client.statements()).toBe(before)
    })

    test('constraints, triggers and sizes of the server’s and the driver’s own; without a word of the data', async () => {
      const { outbox } = await place.initialized(1)
      const { storage } = outbox
      const { schema, raw } = place
      await raw.query(
        `ALTER TABLE ${schema}.outbox_events ADD CHECK (type <> 'checked'), ALTER COLUMN type TYPE varchar(40);
        CREATE FUNCTION ${schema}.judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.type = 'judged' THEN RAISE EXCEPTION 'no %', NEW.body; END IF; RETURN NEW; END $$;
        CREATE TRIGGER judge BEFORE INSERT ON ${schema}.outbox_events
          FOR EACH ROW EXECUTE FUNCTION ${schema}.judge()`,
      )
      const body = JSON.stringify(SECRET)
      const unindexable = Array.from({ length: 2_000 }, (_, n) => `${(n * 7919) % 9973}`).join()
      const wrong: [string, Partial<NewEvent>][] = [
        ['23514', { type: 'checked' }],
        ['P0001', { type: 'judged' }],
        ['22001', { type: 'x'.repeat(41) }],
        ['54000', { id: unindexable }],
      ]
      for (const [code, changes] of wrong) {
        for (const events of [
          [newEvent({ body, ...changes })],
          [newEvent(), newEvent({ body, ...changes })],
        ]) {
          const error: unknown = await storage.write([appending(...events)]).catch((thrown) => thrown)
          expect(error).toMatchObject({ ...refused, cause: { code } })
          expect(inspect(error, { depth: 10, showHidden: true })).not.toContain(SECRET)
        }
      }
      expect(await place.count('outbox_events')).toBe(0)
    })

    test('more text than a string of JavaScript’s can be', async () => {
      const { outbox } = await place.initialized(1)
      const { storage } = outbox
      const type = 'x'.repeat(2 ** 28)
      const writing = storage.write([appending(newEvent({ type }), newEvent({ type }))])
      await expect(writing).rejects.toMatchObject(refused)
      expect(await storage.write([appending(newEvent())])).toEqual([{ status: 'applied' }])
    })

    test('one of several callers whose writes are shared hears of it, and no other', async () => {
      const { outbox } = await place.initialized(1)
      const bus = new OutboxEventBus(outbox)
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events ADD CHECK (type <> 'checked')`)
      const types = Array.from({ length: 12 }, (_, n) => (n === 5 ? 'checked' : 'fine'))
      const results = await Promise.allSettled(types.map((type) => bus.emit(type, 1)))
      expect(results.map(({ status }) => status).indexOf('rejected')).toBe(5)
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(11)
      expect(await place.count('outbox_events')).toBe(11)
    })

    test('but not a server that only reads for now, nor one that asks for rights', async () => {
      await place.initialized(1)
      const as = await place.as({ default_transaction_read_only: 'on' })
      const storage = async () =>
        (await place.open(1, as)).outbox({ schema: place.schema, logger: false }).storage
      const standby = { ...failed, transient: true, cause: { code: '25006' } }
      await expect(write(await storage())).rejects.toMatchObject(standby)
      await place.raw.query(`ALTER ROLE ${place.schema}_user RESET default_transaction_read_only`)
      await place.raw.query(`REVOKE ALL ON ${place.schema}.outbox_events FROM ${place.schema}_user`)
      const rights = { ...failed, transient: false, cause: { code: '42501' } }
      await expect(write(await storage())).rejects.toMatchObject(rights)
    })
  })
}

const LATER = { delayMs: 3_600_000, error: null, counted: true } as const

function write<Tx, TxOptions>(storage: Storage<Tx, TxOptions>): Promise<unknown> {
  return storage.write([appending(newEvent())])
}

function putting(expires: { at: number } | { inMs: number }): Outcome {
  return { append: [], put: [{ id: 'claim', data: Uint8Array.of(1), expires }], remove: [] }
}

/** What no event may hold; the last ones are no texts, as untyped code might pass them. */
function unusable(): [string, Partial<NewEvent>][] {
  return [
    ...(['id', 'type', 'fingerprint'] as const).map((column): [string, Partial<NewEvent>] => [
      `NUL in ${column}`,
      { [column]: `${SECRET}\0` },
    ]),
    ['NUL in a long body', { body: `${'x'.repeat(1_000)}\0` }],
    ...NO_MOMENTS.flatMap((value): [string, Partial<NewEvent>][] => [
      [`due in ${value}`, { due: { inMs: value } }],
      [`due at ${value}`, { due: { at: value } }],
    ]),
    ['a body that is missing', { body: undefined as unknown as string }],
  ]
}
