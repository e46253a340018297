import { randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import { OutboxEventBus } from 'outbox-core'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Client } from './postgres-backend.ts'

/** Opens a client with a pool of `max` connections, all of them open from the start. */
type Connect<Tx, TxOptions> = (
  url: string,
  applicationName: string,
  max?: number,
) => Promise<Client<Tx, TxOptions>>

/** What holds for every client on a Postgres server beside the contract: round trips, connections, faults. */
export function postgresSuite<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    let raw: pg.Client
    let schema: string
    const closing: (() => Promise<unknown>)[] = []

    beforeAll(async () => {
      raw = new pg.Client(url)
      await raw.connect()
    })
    afterAll(() => raw.end())
    beforeEach(async () => {
      schema = `suite_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      await raw.query(`CREATE SCHEMA ${schema}`)
    })
    afterEach(async () => {
      for (const close of closing.splice(0).reverse()) await close()
      await raw.query(`DROP SCHEMA ${schema} CASCADE`)
    })

    const open = async (max?: number): Promise<Client<Tx, TxOptions>> => {
      const client = await connect(url, schema, max)
      closing.push(() => client.close())
      return client
    }
    const connectAs = async (as: string): Promise<Client<Tx, TxOptions>> => {
      const client = await connect(as, schema, 1)
      closing.push(() => client.close())
      return client
    }
    const initialized = async (max?: number) => {
      const client = await open(max)
      const outbox = client.outbox({ schema, logger: false })
      await outbox.initialize()
      return { client, outbox }
    }
    const count = async (table: string): Promise<number> => {
      const { rows } = await raw.query(`SELECT count(*)::int AS count FROM ${schema}.${table}`)
      return rows[0].count
    }
    const connections = async (): Promise<number[]> => {
      const { rows } = await raw.query('SELECT pid FROM pg_stat_activity WHERE application_name = $1', [
        schema,
      ])
      return rows.map(({ pid }) => pid)
    }
    const started = async (bus: OutboxEventBus): Promise<OutboxEventBus> => {
      closing.push(() => bus.stop())
      await bus.start()
      return bus
    }

    test('emit is one statement, a payload beside it costs none, a batch is leased by one and settled by one', async () => {
      const { client, outbox } = await initialized()
      const cost = async (work: () => Promise<unknown>): Promise<number> => {
        const before = client.statements()
        await work()
        return client.statements() - before
      }
      const bus = new OutboxEventBus(outbox)
      const record = { id: 'claim', data: new Uint8Array(20_000), expires: { inMs: 60_000 } }
      const event = (id: string) => ({
        id,
        type: 'a',
        body: '1',
        headers: {},
        due: { inMs: 0 },
        fingerprint: null,
      })
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
      let events = await outbox.storage.lease(100, 60_000)
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
          events = await outbox.storage.lease(100, 60_000)
        }),
      ).toBe(1)
      expect(events.map(({ id }) => id)).toEqual(['next-0', 'next-1', 'next-2', 'next-3'])
      expect(await count('saga_store')).toBe(4)
    })

    test('leaves saga_store empty after a rollback, whichever way the transaction was opened', async () => {
      const { client, outbox } = await initialized()
      const bus = new OutboxEventBus(outbox)
      const large = { text: 'x'.repeat(50_000) }
      const emits = async (): Promise<void> => {
        await outbox.sagaStore('1d').put('claim', new Uint8Array(50_000))
        await bus.emit('large', large)
        expect(await count('saga_store')).toBe(0)
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
      expect([await count('saga_store'), await count('outbox_events')]).toEqual([0, 0])
      await outbox.transaction(() => outbox.sagaStore('1d').put('claim', new Uint8Array(50_000)))
      expect(await count('saga_store')).toBe(1)
    })

    test('never waits for a second connection inside a transaction', async () => {
      const { outbox } = await initialized(1)
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
      expect(await count('outbox_events')).toBe(3)
      expect(await connections()).toHaveLength(1)
    })

    test('opens no connection of its own, however busy it is', async () => {
      const { outbox } = await initialized(2)
      const before = (await connections()).sort()
      expect(before).toHaveLength(2)
      const bus = new OutboxEventBus(outbox)
      let handled = 0
      bus.on('a', () => {
        handled++
      })
      await started(bus)
      const seen = new Set<number>(before)
      for (let round = 0; round < 20; round++) {
        await Promise.all(Array.from({ length: 10 }, () => outbox.transaction(() => bus.emit('a', round))))
        for (const pid of await connections()) seen.add(pid)
      }
      await until(() => handled === 200)
      expect([...seen].sort()).toEqual(before)
    })

    test('recovers by itself when every connection dies in the middle of a batch', async () => {
      const { outbox } = await initialized()
      const bus = new OutboxEventBus(outbox, {
        lease: 2_000,
        heartbeat: 500,
        batchSize: 10,
        concurrency: 5,
        poll: { min: 20, max: 50 },
      })
      const completed = new Map<number, number>()
      bus.on<'work'>('work', async ({ payload }) => {
        const n = payload as number
        if (n % 20 === 7 && !completed.has(n)) {
          completed.set(n, 0)
          await raw.query(
            'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1',
            [schema],
          )
        }
        completed.set(n, (completed.get(n) ?? 0) + 1)
      })
      await bus.emitMany(Array.from({ length: 60 }, (_, n) => ({ type: 'work', payload: n })))
      await started(bus)
      await until(async () => (await count('outbox_events')) === 0, 20_000)
      expect([...completed.keys()].sort((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, n) => n))
      expect(Math.min(...completed.values())).toBeGreaterThan(0)
    })

    test('says that an outcome is unknown when the connection dies before the commit is answered', async () => {
      const { outbox } = await initialized()
      const bus = new OutboxEventBus(outbox)
      const dying = outbox.transaction(async () => {
        await bus.emit('a', 1)
        await raw.query(
          'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1',
          [schema],
        )
      })
      await expect(dying).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
      expect(await count('outbox_events')).toBe(0)
      await until(() =>
        bus.emit('a', 1).then(
          () => true,
          () => false,
        ),
      )
      expect(await count('outbox_events')).toBe(1)
    })

    test('throws what the callback threw, even when the rollback fails too', async () => {
      const { outbox } = await initialized()
      const own = new Error('the callback’s own')
      const dying = outbox.transaction(async () => {
        await raw.query(
          'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1',
          [schema],
        )
        throw own
      })
      await expect(dying).rejects.toBe(own)
    })

    test('runs a transaction again that lost against another one, and emits once', async () => {
      const { client, outbox } = await initialized()
      const bus = new OutboxEventBus(outbox)
      await raw.query(
        `CREATE FUNCTION ${schema}.fail(state text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = state; END $$`,
      )
      const failing = `SELECT ${schema}.fail($1)`
      for (const state of ['40001', '40P01']) {
        let runs = 0
        const done = outbox.transaction(async (tx) => {
          await bus.emit('a', state)
          if (++runs < 3) await client.execute(tx, failing, state)
          return runs
        })
        expect(await done).toBe(3)
      }
      expect(await count('outbox_events')).toBe(2)
      let runs = 0
      const endless = outbox.transaction(async (tx) => {
        runs++
        await client.execute(tx, failing, '40001')
      })
      await expect(endless).rejects.toThrow()
      expect(runs).toBe(5)
      const other = outbox.transaction(async (tx) => {
        runs++
        await client.execute(tx, failing, '23514')
      })
      await expect(other).rejects.toThrow()
      expect(runs).toBe(6)
    })

    test('fails a transaction whose callback went on after a statement of the outbox had failed', async () => {
      const { client, outbox } = await initialized()
      await raw.query(`CREATE TABLE ${schema}.business (key text)`)
      await raw.query(`ALTER TABLE ${schema}.outbox_events ADD CHECK (type <> 'refused')`)
      const bus = new OutboxEventBus(outbox)
      const swallowing = outbox.transaction(async (tx) => {
        await client.execute(tx, `INSERT INTO ${schema}.business VALUES ($1)`, 'a')
        await bus.emit('refused', 1).catch(() => {})
      })
      await expect(swallowing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
      expect(await count('business')).toBe(0)
    })

    test('shows neither rows nor parameters in an error', async () => {
      const { outbox } = await initialized()
      await raw.query(`ALTER TABLE ${schema}.outbox_events ADD CHECK (type <> 'refused')`)
      await raw.query(`ALTER TABLE ${schema}.saga_store ADD CHECK (octet_length(data) > 100)`)
      const secret = 'SECRET-PAYLOAD'
      const bus = new OutboxEventBus(outbox)
      const failures = [
        await bus.emit('refused', secret).catch((error) => error),
        await bus
          .emitMany([
            { type: 'refused', payload: secret },
            { type: 'b', payload: secret },
          ])
          .catch((error) => error),
        await outbox
          .sagaStore('1d')
          .put('claim', Buffer.from(secret))
          .catch((error) => error),
      ]
      for (const error of failures) {
        expect(error).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false, cause: { code: '23514' } })
        const shown = inspect(error, { depth: 10, showHidden: true })
        expect(shown).not.toContain(secret)
        expect(shown).not.toContain(Buffer.from(secret).toString('hex'))
      }
      expect(await count('outbox_events')).toBe(0)
    })

    test('pages through dead letters that died in the same microsecond, each once', async () => {
      const { outbox } = await initialized()
      await raw.query(
        `INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, visible_at, state, error, died_at)
        SELECT 'dead-' || n, 'a', '1', '{}', now(), now(), 3, 'e', '2026-01-02 03:04:05.678901+00'
        FROM generate_series(1, 12) AS n`,
      )
      for (const limit of [1, 5, 12]) {
        const seen: string[] = []
        for (let after: string | undefined, pages = 0; pages < 20; pages++) {
          const page = await outbox.storage.listDead({ limit, ...(after !== undefined && { after }) })
          seen.push(...page.events.map(({ id }) => id))
          after = page.next
          if (after === undefined) break
        }
        expect(seen).toEqual(Array.from({ length: 12 }, (_, index) => `dead-${index + 1}`))
      }
    })

    test('puts more payloads in one write than a statement has parameters, each with its own bytes', async () => {
      const { outbox } = await initialized(1)
      const bytes = (n: number) => Uint8Array.from({ length: n % 7 }, (_, index) => (n + index) % 256)
      const expires = { inMs: 60_000 }
      const put = Array.from({ length: 70_000 }, (_, n) => ({ id: `claim-${n}`, data: bytes(n), expires }))
      expect(await outbox.storage.write([{ append: [], put, remove: [] }])).toEqual([{ status: 'applied' }])
      expect(await count('saga_store')).toBe(70_000)
      for (const n of [0, 1, 6, 7, 12_345, 69_999]) {
        expect([...((await outbox.storage.getPayload(`claim-${n}`)) ?? [-1])]).toEqual([...bytes(n)])
      }
    })

    test('names what to do when the tables are missing, and works once they are there', async () => {
      const client = await open()
      const outbox = client.outbox({ schema, logger: false })
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
      await raw.query(`ALTER TABLE ${schema}.outbox_events DROP COLUMN uncounted`)
      await expect(outbox.storage.lease(1, 1_000)).rejects.toMatchObject({ code: 'OUTBOX_NOT_INITIALIZED' })
    })

    test('initializes once, however many processes start, and asks for no rights after that', async () => {
      const clients = await Promise.all([open(1), open(1), open(1)])
      const outboxes = clients.flatMap((client) => [client.outbox({ schema }), client.outbox({ schema })])
      await Promise.all(outboxes.map((outbox) => outbox.initialize()))
      expect(await count('outbox_migrations')).toBe(1)
      await raw.query(`CREATE ROLE ${schema} LOGIN PASSWORD 'outbox'`)
      closing.push(() => raw.query(`DROP OWNED BY ${schema}; DROP ROLE ${schema}`))
      await raw.query(`GRANT USAGE ON SCHEMA ${schema} TO ${schema}`)
      await raw.query(`GRANT ALL ON ALL TABLES IN SCHEMA ${schema} TO ${schema}`)
      const restricted = new URL(url)
      restricted.username = schema
      restricted.password = 'outbox'
      const client = await connectAs(restricted.href)
      const outbox = client.outbox({ schema, logger: false })
      await outbox.initialize()
      await new OutboxEventBus(outbox).emit('a', 1)
      expect(await count('outbox_events')).toBe(1)
    })
  })
}

function timeout(ms: number): Promise<never> {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`not done after ${ms} ms`)), ms))
}

export async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const giveUpAt = Date.now() + timeoutMs
  while (!(await condition())) {
    if (Date.now() > giveUpAt) throw new Error(`still not true after ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
