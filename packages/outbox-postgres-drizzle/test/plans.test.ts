import { randomUUID } from 'node:crypto'
import { takeDue } from 'outbox-core/testing'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { nodePostgres, type Query } from './clients.ts'

const url = serverUrl()

interface Plan {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly Plans?: readonly Plan[]
}

describe.skipIf(url === undefined)('query plans on a large table', () => {
  if (url === undefined) return
  const schema = `plans_${randomUUID().slice(0, 8)}`
  const raw = new pg.Client(url)
  let client: Awaited<ReturnType<typeof nodePostgres>>

  beforeAll(async () => {
    await raw.connect()
    await raw.query(`CREATE SCHEMA ${schema}`)
    client = await nodePostgres(url, schema, 1)
    await client.outbox({ schema }).initialize()
    // 100,000 due, 50,000 done, 50,000 dead, 50,000 keys, 50,000 payloads, a tenth of them expired.
    await raw.query(`INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, visible_at, state, died_at)
      SELECT 'event-' || n, 'type', '{}', '{}', now(), now() - n * interval '1 ms',
        CASE n % 4 WHEN 0 THEN 2 WHEN 1 THEN 3 ELSE 0 END, CASE n % 4 WHEN 1 THEN now() END
      FROM generate_series(1, 200000) AS n`)
    await raw.query(
      `INSERT INTO ${schema}.outbox_events_keys SELECT 'key-' || n, 1 FROM generate_series(1, 50000) AS n`,
    )
    await raw.query(`INSERT INTO ${schema}.saga_store (id, data, expires_at)
      SELECT 'claim-' || n, '\\x00', now() + (n - 5000) * interval '1 s' FROM generate_series(1, 50000) AS n`)
  })
  afterAll(async () => {
    await client.close()
    await raw.query(`DROP SCHEMA ${schema} CASCADE`)
    await raw.end()
  })

  /** Relations that the statement reads from end to end. */
  const scanned = async ({ text, parameters }: Query): Promise<string[]> => {
    await raw.query('BEGIN')
    try {
      const { rows } = await raw.query(`EXPLAIN (FORMAT JSON) ${text}`, [...parameters])
      const whole = (plan: Plan): string[] => [
        ...(plan['Node Type'] === 'Seq Scan' ? [plan['Relation Name'] ?? ''] : []),
        ...(plan.Plans ?? []).flatMap(whole),
      ]
      return whole(rows[0]['QUERY PLAN'][0].Plan)
    } finally {
      await raw.query('ROLLBACK')
    }
  }

  for (const statistics of ['as the tables were created', 'after ANALYZE']) {
    test(`no statement of a batch reads a whole table, ${statistics}`, async () => {
      if (statistics === 'after ANALYZE') await raw.query('ANALYZE')
      const { storage } = client.outbox({ schema })
      client.queries.length = 0
      const events = await takeDue(storage, 100, 60_000)
      expect(events).toHaveLength(100)
      await storage.extend(events, 60_000)
      const [first, ...rest] = events
      const next = (id: string, fingerprint: string | null = null) => ({
        ...{ id: `next-${id}`, type: 'a', address: 'a', key: null, body: '{}' },
        ...{ headers: {}, due: { inMs: 0 }, fingerprint },
      })
      await storage.write([
        ...rest.map(({ id, attempt }, n) => ({
          settle: { id, attempt, kind: 'complete', keepMs: 0 } as const,
          append: [next(id)],
          put: [{ id: `new-${id}`, data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
          remove: [`claim-${40_000 + n}`],
        })),
        {
          settle: { id: first?.id ?? '', attempt: 1, kind: 'retry', delayMs: 1, error: 'e', counted: true },
          append: [],
          put: [],
          remove: [],
        },
      ])
      const [named] = await takeDue(storage, 1, 60_000)
      if (!named) throw new Error('more are due')
      const step = { id: named.id, attempt: 1, kind: 'complete', keepMs: 0 } as const
      await storage.write([
        { settle: step, append: [next(`after ${statistics}`, 'first')], put: [], remove: [] },
      ])
      await storage.write([{ append: [next(`after ${statistics}`, 'second')], put: [], remove: [] }])
      await storage.getPayload('claim-49000')
      await storage.keep('event-4', 60_000)
      await storage.purge(100)
      await storage.listDead({ limit: 100 })
      await storage.listDead({ limit: 100, ids: ['event-1', 'event-5'] })
      const keyed = (id: string) => ({ ...next(`${id} ${statistics}`), key: 'key' })
      for (const id of ['first', 'second']) {
        await storage.write([{ append: [keyed(id)], put: [], remove: [] }])
      }
      const addresses = [{ address: 'a', limit: 1_000 }]
      const found = await storage.lease({ limit: 1_000, leaseMs: 60_000, addresses })
      const settle = found.flatMap(({ id, attempt, key }) =>
        key === null ? [] : [{ kind: 'complete', id, attempt, key, keepMs: 0 } as const],
      )
      expect(settle).toHaveLength(1)
      await storage.write(
        settle.map((one) => ({ settle: one, append: [keyed('third')], put: [], remove: [] })),
      )
      await storage.advance?.(['key', 'other'])
      await storage.advance?.()
      const queries = client.queries.splice(0)
      expect(queries).toHaveLength(20)
      const scanning: object[] = []
      for (const query of queries) {
        const tables = await scanned(query)
        if (tables.length > 0) scanning.push({ tables, text: query.text })
      }
      expect(scanning).toEqual([])
      // What would be seen if it were otherwise.
      expect(
        await scanned({ text: `SELECT * FROM ${schema}.outbox_events WHERE body = $1`, parameters: ['x'] }),
      ).toEqual(['outbox_events'])
    })
  }

  test('a large batch is leased from a smaller table by index and place, too', async () => {
    const { storage } = client.outbox({ schema, tables: { events: 'smaller', payloads: 'smaller_store' } })
    await storage.initialize()
    await raw.query(`INSERT INTO ${schema}.smaller (id, type, body, headers, created_at, visible_at)
      SELECT 'event-' || n, 'type', '{}', '{}', now(), now() - n * interval '1 ms' FROM generate_series(1, 20000) AS n`)
    await raw.query(`ANALYZE ${schema}.smaller`)
    client.queries.length = 0
    const request = { limit: 500, leaseMs: 60_000, addresses: [{ address: 'type', limit: 500 }] }
    expect(await storage.lease(request)).toHaveLength(500)
    const [lease] = client.queries
    if (!lease) throw new Error('a lease is a query')
    expect(await scanned(lease)).toEqual([])
  })

  // Logical replication brings the rows to a new primary, not where the sequence was.
  test('a lease returns every event once, also where numbers were given twice', async () => {
    const { storage } = client.outbox({ schema, tables: { events: 'twice', payloads: 'twice_store' } })
    await storage.initialize()
    await raw.query(`INSERT INTO ${schema}.twice (id, seq, type, body, headers, created_at, visible_at)
      OVERRIDING SYSTEM VALUE SELECT 'event-' || n, n % 3, 'type', '{}', '{}', now(), now() FROM generate_series(1, 9) AS n`)
    const ids = (await takeDue(storage, 10, 60_000)).map(({ id }) => id)
    expect(ids.sort()).toEqual(Array.from({ length: 9 }, (_, n) => `event-${n + 1}`))
  })
})
