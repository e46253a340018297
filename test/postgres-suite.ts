import { type DeadCursor, OutboxEventBus } from 'outbox-core'
import { postgresMigrations } from 'outbox-core/sql'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { newEvent } from '../packages/outbox-core/src/testing/harness.ts'
import { tuning } from './postgres-catalog.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

/** What holds for every client on a Postgres server beside the contract: round trips, connections, tables. */
export function postgresSuite<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)

    test('emit is one statement, a payload beside it costs none, a batch is leased by one and settled by one', async () => {
      const { client, outbox } = await place.initialized()
      const cost = async (work: () => Promise<unknown>): Promise<number> => {
        const before = client.statements()
        await work()
        return client.statements() - before
      }
      const bus = new OutboxEventBus(outbox)
      const record = { id: 'claim', data: new Uint8Array(20_000), expires: { inMs: 60_000 } }
      const event = (id: string) => newEvent({ id, type: 'a' })
      await outbox.transaction(async (tx) => {
        expect(await cost(() => bus.emit('a', 1))).toBe(1)
        expect(
          await cost(() =>
            bus.emitMany([
              { type: 'a', payload: 1 },
              { type: 'a', payload: 2 },
            ]),
          ),
        ).toBe(1)
        const both = { append: [event('with-payload')], put: [record], remove: [] }
        expect(await cost(() => outbox.storage.write([both], tx))).toBe(1)
      })
      const takes = () =>
        outbox.storage.lease({ limit: 100, leaseMs: 60_000, addresses: [{ address: 'a', limit: 100 }] })
      let events = await takes()
      expect(events).toHaveLength(4)
      const steps = events.map(({ id, attempt }, index) => ({
        settle: { id, attempt, kind: 'complete', keepMs: 0 } as const,
        append: [event(`next-${index}`)],
        put: [{ ...record, id: `next-${index}` }],
        remove: ['claim'],
      }))
      expect(await cost(() => outbox.storage.write(steps))).toBe(1)
      expect(
        await cost(async () => {
          events = await takes()
        }),
      ).toBe(1)
      expect(events.map(({ id }) => id)).toEqual(['next-0', 'next-1', 'next-2', 'next-3'])
      expect(await place.count('saga_store')).toBe(4)
    })

    test('leaves saga_store empty after a rollback, whichever way the transaction was opened', async () => {
      const { client, outbox } = await place.initialized()
      const bus = new OutboxEventBus(outbox)
      const large = { text: 'x'.repeat(50_000) }
      const emits = async (): Promise<void> => {
        await outbox.sagaStore('1d').put('claim', new Uint8Array(50_000))
        await bus.emit('large', large)
        expect(await place.count('saga_store')).toBe(0)
        throw new Error('rolled back')
      }
      await expect(outbox.transaction(emits)).rejects.toThrow('rolled back')
      await expect(client.transaction((tx) => outbox.enlist(tx, emits))).rejects.toThrow('rolled back')
      const explicit = client.transaction(async (tx) => {
        await outbox.sagaStore('1d').put('claim', new Uint8Array(50_000), undefined, { transaction: tx })
        await bus.emit('large', large, { transaction: tx })
        throw new Error('rolled back')
      })
      await expect(explicit).rejects.toThrow('rolled back')
      expect([await place.count('saga_store'), await place.count('outbox_events')]).toEqual([0, 0])
      await outbox.transaction(() => outbox.sagaStore('1d').put('claim', new Uint8Array(50_000)))
      expect(await place.count('saga_store')).toBe(1)
    })

    test('never waits for a second connection inside a transaction', async () => {
      const { outbox } = await place.initialized(1)
      const bus = new OutboxEventBus(outbox)
      const store = outbox.sagaStore('1d')
      const work = outbox.transaction(async (tx) => {
        await bus.emit('a', 1, { id: 'chosen' })
        await bus.emit('a', 1, { id: 'chosen' })
        await expect(bus.emit('a', 2, { id: 'chosen' })).rejects.toMatchObject({
          code: 'OUTBOX_DUPLICATE_EVENT',
        })
        await store.put('claim', Uint8Array.of(1))
        expect([...((await store.get('claim')) ?? [])]).toEqual([1])
        await store.delete('claim')
        await outbox.transaction(() => bus.emit('nested', 1))
        await outbox.enlist(tx, () => bus.emit('enlisted', 1))
        return 'done'
      })
      expect(await Promise.race([work, timeout(5_000)])).toBe('done')
      expect(await place.count('outbox_events')).toBe(3)
      expect(await place.sessions()).toHaveLength(1)
    })

    test('opens no connection of its own, however busy it is', async () => {
      const { outbox } = await place.initialized(2)
      const before = (await place.sessions()).sort()
      expect(before).toHaveLength(2)
      const bus = new OutboxEventBus(outbox)
      let handled = 0
      bus.on('a', () => {
        handled++
      })
      await place.started(bus)
      const seen = new Set<number>(before)
      for (let round = 0; round < 20; round++) {
        await Promise.all(Array.from({ length: 10 }, () => outbox.transaction(() => bus.emit('a', round))))
        for (const pid of await place.sessions()) seen.add(pid)
      }
      await until(() => handled === 200)
      expect([...seen].sort()).toEqual(before)
    })

    test('a purge deletes no more once it has so many bytes, and is asked again for what is left', async () => {
      const { client, outbox } = await place.initialized()
      const expired = (count: number, bytes: number) =>
        place.raw.query(
          `INSERT INTO ${place.schema}.saga_store SELECT 'claim-' || n, decode(repeat('00', $2::int), 'hex'), now() - (100 - n) * interval '1 s'
          FROM generate_series(1, $1::int) AS n`,
          [count, bytes],
        )
      await expired(5, 1_000)
      expect(await outbox.storage.purge(100, { bytes: 2_500 })).toEqual({
        events: 0,
        payloads: 3,
        more: true,
      })
      // One that is larger than that goes alone, and the oldest goes first.
      expect(await outbox.storage.purge(100, { bytes: 1 })).toEqual({ events: 0, payloads: 1, more: true })
      const { rows } = await place.raw.query(`SELECT id FROM ${place.schema}.saga_store`)
      expect(rows).toEqual([{ id: 'claim-5' }])
      expect(await outbox.storage.purge(100, { bytes: 1_000 })).toEqual({ events: 0, payloads: 1 })
      await expired(5, 20 * 1024 * 1024)
      const before = client.statements()
      expect(await outbox.sagaStore('1d').cleanup()).toBe(5)
      expect(client.statements() - before).toBe(2)
    })

    test('pages through dead letters that died in the same microsecond, each once', async () => {
      const { outbox } = await place.initialized()
      await place.raw.query(
        `INSERT INTO ${place.schema}.outbox_events (id, type, body, headers, created_at, visible_at, state, error, died_at)
        SELECT 'dead-' || n, 'a', '1', '{}', now(), now(), 3, 'e', '2026-01-02 03:04:05.678901+00'
        FROM generate_series(1, 12) AS n`,
      )
      for (const limit of [1, 5, 12]) {
        const seen: string[] = []
        for (let after: DeadCursor | undefined, pages = 0; pages < 20; pages++) {
          const page = await outbox.storage.listDead({ limit, ...(after !== undefined && { after }) })
          seen.push(...page.events.map(({ id }) => id))
          after = page.next
          if (after === undefined) break
        }
        expect(seen).toEqual(Array.from({ length: 12 }, (_, index) => `dead-${index + 1}`))
      }
    })

    test('puts more payloads in one write than a statement has parameters, each with its own bytes', async () => {
      const { outbox } = await place.initialized(1)
      const bytes = (n: number) => Uint8Array.from({ length: n % 7 }, (_, index) => (n + index) % 256)
      const expires = { inMs: 60_000 }
      const put = Array.from({ length: 70_000 }, (_, n) => ({ id: `claim-${n}`, data: bytes(n), expires }))
      expect(await outbox.storage.write([{ append: [], put, remove: [] }])).toEqual([{ status: 'applied' }])
      expect(await place.count('saga_store')).toBe(70_000)
      for (const n of [0, 1, 6, 7, 12_345, 69_999]) {
        expect([...((await outbox.storage.getPayload(`claim-${n}`)) ?? [-1])]).toEqual([...bytes(n)])
      }
    })

    test.each(['all at once', 'beside what they follow'])(
      'appends long bodies and short ones, each its own: %s',
      async (how) => {
        const { outbox } = await place.initialized()
        const { storage } = outbox
        const bodies = Array.from({ length: 300 }, (_, n) =>
          JSON.stringify('é𝄞"\\'.repeat((n % 3) * 200) + n),
        )
        const append = bodies.map((body, n) => newEvent({ id: `event-${n}`, type: 'a', body }))
        const first = newEvent({ id: 'first', type: 'a', body: '1' })
        await storage.write([{ append: [first], put: [], remove: [] }])
        const [lease] = await takeDue(storage, 1, 60_000)
        const settle = { kind: 'complete', id: 'first', attempt: lease?.attempt ?? 0, keepMs: 0 } as const
        const outcome = { append, put: [], remove: [] }
        expect(await storage.write([how === 'all at once' ? outcome : { ...outcome, settle }])).toEqual([
          { status: 'applied' },
        ])
        const leased = await takeDue(storage, 300, 60_000)
        expect(leased.map(({ body }) => body)).toEqual(bodies)
      },
    )

    test('brings older tables up to date, with what is in them', async () => {
      const { outbox } = await place.initialized()
      const bus = new OutboxEventBus(outbox)
      const now = await tuning(place.raw, place.schema)
      const later = await place.count('outbox_migrations')
      expect(later).toBeGreaterThan(1)
      // As the first version created them.
      await place.raw.query(
        `ALTER TABLE ${place.schema}.outbox_events ALTER COLUMN body SET STORAGE EXTENDED`,
      )
      await place.raw.query(`DELETE FROM ${place.schema}.outbox_migrations WHERE version > 1`)
      await bus.emit('a', 'x'.repeat(10_000))
      expect(await tuning(place.raw, place.schema)).not.toEqual(now)
      await outbox.initialize()
      expect(await tuning(place.raw, place.schema)).toEqual(now)
      expect(await place.count('outbox_migrations')).toBe(later)
      expect(await takeDue(outbox.storage, 10, 60_000)).toMatchObject([{ body: `"${'x'.repeat(10_000)}"` }])
    })

    test('names what to do when the tables are missing, and works once they are there', async () => {
      const client = await place.open()
      const outbox = client.outbox({ schema: place.schema, logger: false })
      const bus = new OutboxEventBus(outbox)
      bus.on('a', () => {})
      for (const call of [
        () => bus.emit('a', 1),
        () => outbox.transaction(() => bus.emit('a', 1)),
        () => outbox.sagaStore('1d').get('claim'),
        () => outbox.stats(),
        () => bus.start(),
      ]) {
        await expect(call()).rejects.toMatchObject({
          code: 'OUTBOX_NOT_INITIALIZED',
          message: expect.stringContaining('outbox.initialize()'),
        })
      }
      await outbox.initialize()
      await bus.emit('a', 1)
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events DROP COLUMN uncounted`)
      await expect(takeDue(outbox.storage, 1, 1_000)).rejects.toMatchObject({
        code: 'OUTBOX_NOT_INITIALIZED',
      })
    })

    test('says what to do when the schema is missing or a table is somebody else’s', async () => {
      const client = await place.open(1)
      const failing = (options: object) => client.outbox({ schema: place.schema, ...options }).initialize()
      await expect(failing({ schema: 'none_such' })).rejects.toMatchObject({
        code: 'OUTBOX_NOT_INITIALIZED',
        message: expect.stringContaining('create the schema first'),
      })
      await place.raw.query(`CREATE TABLE ${place.schema}.outbox_events (id text)`)
      await expect(failing({})).rejects.toMatchObject({
        code: 'OUTBOX_NOT_INITIALIZED',
        message: expect.stringContaining('set the option "tables"'),
      })
      expect(await place.tables()).toEqual(['outbox_events'])
      await failing({ tables: { events: 'own_events' } })
      expect(await place.tables()).toHaveLength(5)
      expect(() => client.outbox({ tables: { events: 'same', payloads: 'Same' } })).toThrowError(
        expect.objectContaining({ code: 'OUTBOX_CONFIGURATION', option: 'tables.payloads' }),
      )
    })

    test('refuses a database that can’t hold every text', async () => {
      const database = `${place.schema}_latin1`
      await place.raw.query(`CREATE DATABASE ${database} TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'`)
      place.closing(() => place.raw.query(`DROP DATABASE ${database} WITH (FORCE)`))
      const client = await place.open(1, Object.assign(new URL(url), { pathname: database }).href)
      await expect(client.outbox({}).initialize()).rejects.toMatchObject({
        code: 'OUTBOX_UNSUPPORTED_BACKEND',
        message: expect.stringContaining('LATIN1'),
      })
    })

    test('a heartbeat leaves alone what is just being settled, instead of waiting for it', async () => {
      const { outbox } = await place.initialized(1)
      const { storage } = outbox
      await new OutboxEventBus(outbox).emitMany([1, 2, 3].map((payload) => ({ type: 'a', payload })))
      const [settled, lost, kept] = await takeDue(storage, 3, 1_000)
      if (!settled || !lost || !kept) throw new Error('three were emitted')
      await place.raw.query('BEGIN')
      await place.raw.query(`DELETE FROM ${place.schema}.outbox_events WHERE id = $1`, [settled.id])
      const leases = [kept, settled, { ...lost, attempt: 7 }]
      expect(await storage.extend(leases, 3_600_000)).toEqual([lost.id])
      await place.raw.query('COMMIT')
      expect(await storage.extend([settled], 3_600_000)).toEqual([settled.id])
      const { rows } = await place.raw.query(
        `SELECT id FROM ${place.schema}.outbox_events WHERE visible_at > now() + interval '30 minutes'`,
      )
      expect(rows).toEqual([{ id: kept.id }])
    })

    test('initializes once, however many processes start, and asks for no rights after that', async () => {
      const clients = await Promise.all([place.open(1), place.open(1), place.open(1)])
      const outboxes = clients.flatMap((client) => [
        client.outbox({ schema: place.schema }),
        client.outbox({ schema: place.schema }),
      ])
      await Promise.all(outboxes.map((outbox) => outbox.initialize()))
      expect(await place.count('outbox_migrations')).toBe(postgresMigrations().length)
      const client = await place.open(1, await place.as())
      const outbox = client.outbox({ schema: place.schema, logger: false })
      await outbox.initialize()
      await new OutboxEventBus(outbox).emit('a', 1)
      expect(await place.count('outbox_events')).toBe(1)
    })
  })
}

function timeout(ms: number): Promise<never> {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`not done after ${ms} ms`)), ms))
}
