import { randomUUID } from 'node:crypto'
import type { LeaseRequest, Storage } from 'outbox-core'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Costs, costsOf } from '../../../test/postgres-costs.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { nodePostgres } from './clients.ts'

const url = serverUrl()
const LEASE_MS = 60_000

describe.skipIf(url === undefined)('what others wait for costs nobody anything', () => {
  if (url === undefined) return
  const schema = `costs_${randomUUID().slice(0, 8)}`
  const events = `${schema}.outbox_events`
  const raw = new pg.Client(url)
  let client: Awaited<ReturnType<typeof nodePostgres>>
  let storage: Storage<never, never>

  beforeAll(async () => {
    await raw.connect()
    await raw.query(`CREATE SCHEMA ${schema}`)
    client = await nodePostgres(url, schema, 1)
    const outbox = client.outbox({ schema, logger: false })
    await outbox.initialize()
    storage = outbox.storage as unknown as Storage<never, never>
    await add(1_000, `'own', NULL, 0, NULL, NULL`)
    await add(1_000, `'own', 'own#' || n % 99, 0, NULL, NULL`)
  })
  afterAll(async () => {
    await client.close()
    await raw.query(`DROP SCHEMA ${schema} CASCADE`)
    await raw.end()
  })

  let added = 0
  /** Rows that have been due for long, by type, address, state, key and place. */
  const add = (count: number, values: string) =>
    raw.query(
      `INSERT INTO ${events} (id, body, headers, created_at, visible_at, type, address, state, key, place)
      SELECT 'event-${added++}-' || n, '{}', '{}', now(), now() - n * interval '1 ms', ${values}
      FROM generate_series(1, ${count}) AS n`,
    )

  /** What it costs with what is in the table now. The one statement of `work` is taken back. */
  const costOf = async (work: () => Promise<unknown>): Promise<Costs> => {
    client.queries.length = 0
    await client.pool.query('SET default_transaction_read_only = on')
    await work().catch(() => {})
    await client.pool.query('SET default_transaction_read_only = off')
    const [query] = client.queries.splice(0)
    if (!query) throw new Error('nothing was asked')
    return costsOf(raw, query, 'custom')
  }

  const one: LeaseRequest = { limit: 100, leaseMs: LEASE_MS, addresses: [{ address: 'own', limit: 100 }] }
  const hundred: LeaseRequest = {
    ...{ limit: 100, leaseMs: LEASE_MS },
    addresses: Array.from({ length: 100 }, (_, n) => ({ address: n < 99 ? `own#${n}` : 'own', limit: 4 })),
  }
  const asked: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['a lease', () => storage.lease(one)],
    ['a lease of a hundred addresses', () => storage.lease(hundred)],
    ['an idle lease', () => storage.lease({ ...one, addresses: [{ address: 'none', limit: 100 }] })],
    ['waiting', () => storage.waiting()],
    ['advance', () => storage.advance?.(['own', 'none']) ?? Promise.resolve()],
  ]

  test.each([
    ['200,000 waiting events of another address', () => add(200_000, `'a', NULL, 0, NULL, NULL`)],
    [
      '10,000 blocked keys',
      async () => {
        await add(10_000, `'own', NULL, 1, 'key-' || n, ARRAY[1]`)
        await raw.query(`UPDATE ${events} SET visible_at = now() + interval '1 h' WHERE state = 1`)
        for (const place of [2, 3, 4, 5]) await add(10_000, `'own', NULL, 4, 'key-' || n, ARRAY[${place}]`)
        await raw.query(
          `INSERT INTO ${events}_keys SELECT 'key-' || n, 5 FROM generate_series(1, 10000) AS n`,
        )
      },
    ],
  ])('%s', async (_, fill) => {
    const before = new Map<string, Costs>()
    for (const [name, work] of asked) before.set(name, await costOf(work))
    await fill()
    for (const [name, work] of asked) {
      const { rows = 0, buffers = 0 } = before.get(name) ?? {}
      const now = await costOf(work)
      // One more address to tell, one more level of an index.
      expect(now.rows, name).toBeLessThanOrEqual(1.5 * rows + 2)
      expect(now.buffers, name).toBeLessThanOrEqual(1.5 * buffers + 8)
    }
  })

  test('a lease locks no more than the shares that it asks for', async () => {
    expect((await costOf(() => storage.lease(hundred))).rows).toBeLessThan(1_200)
  })
})
