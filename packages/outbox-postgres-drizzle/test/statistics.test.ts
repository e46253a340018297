import { randomUUID } from 'node:crypto'
import type { Lease, NewEvent, Settlement, Storage } from 'outbox-core'
import { postgresTables } from 'outbox-core/sql'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Costs, costsOf, type PlanMode } from '../../../test/postgres-costs.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { behindStatement } from '../../outbox-core/src/sql/statements.ts'
import { nodePostgres } from './clients.ts'

const url = serverUrl()

/** Rows of one state, as a table of the time of its ANALYZE had nothing else. */
const TIMES = {
  'was empty': '',
  'was vacuumed when all but empty': '',
  'was counted when it was small': '',
  'had due events only': "0, now() - n * interval '1 s', NULL",
  'had blocked events of one key only': "4, now() - n * interval '1 s', NULL, 'key', ARRAY[n]",
  'had blocked events of a key each': "4, now() - n * interval '1 s', NULL, 'key-' || n, ARRAY[1]",
  'had a few blocked events among done ones':
    "CASE WHEN n < 50 THEN 4 ELSE 2 END, now() - n * interval '1 s', NULL, CASE WHEN n < 50 THEN 'key' END, CASE WHEN n < 50 THEN ARRAY[n] END",
  'had events of the future only': "0, now() + n * interval '1 h', NULL",
  'had leased events only': "1, now() + n * interval '1 ms', NULL",
  'had done events only': "2, now() - n * interval '1 s', NULL",
  'had dead letters only': "3, now() - n * interval '1 s', now() - n * interval '1 s'",
  'had a few due events among done ones':
    "CASE WHEN n < 50 THEN 0 ELSE 2 END, now() - n * interval '1 s', NULL",
  'had a few dead letters among done ones':
    "CASE WHEN n < 50 THEN 3 ELSE 2 END, now() - n * interval '1 s', now() - n * interval '1 s'",
} as const

const TUPLES: Readonly<Record<string, number>> = {
  'was vacuumed when all but empty': 0,
  'was counted when it was small': 12_000,
}

describe.skipIf(url === undefined)(
  'whatever the statistics say, a statement touches what it is asked for',
  () => {
    if (url === undefined) return
    const schema = `statistics_${randomUUID().slice(0, 8)}`
    const raw = new pg.Client(url)
    let client: Awaited<ReturnType<typeof nodePostgres>>

    beforeAll(async () => {
      await raw.connect()
      await raw.query(`CREATE SCHEMA ${schema}`)
      client = await nodePostgres(url, schema, 1)
      await client.outbox({ schema }).initialize()
      for (const table of ['outbox_events', 'outbox_events_keys', 'saga_store']) {
        await raw.query(`ALTER TABLE ${schema}.${table} SET (autovacuum_enabled = false)`)
      }
      // Half of them done, the others due, leased and dead; half of the payloads expired.
      await raw.query(`INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, attempt, error, state, visible_at, died_at)
      SELECT 'event-' || n, 'type', '{}', '{}', now(), 1, 'e', CASE n % 8 WHEN 0 THEN 0 WHEN 1 THEN 0 WHEN 2 THEN 1 WHEN 3 THEN 3 ELSE 2 END,
        now() + CASE n % 8 WHEN 2 THEN interval '1 h' ELSE n * interval '-1 ms' END, CASE n % 8 WHEN 3 THEN now() - n * interval '1 ms' END
      FROM generate_series(1, 200000) AS n`)
      await raw.query(`INSERT INTO ${schema}.saga_store (id, data, expires_at)
      SELECT 'claim-' || n, '\\x00', now() + (n - 25000) * interval '1 s' FROM generate_series(1, 50000) AS n`)
      // Of 4,000 keys the first is leased, or dead, and nine are behind it.
      await raw.query(`INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, attempt, error, state, visible_at, died_at, key, place)
      SELECT 'keyed-' || n || '-' || m, 'keyed', '{}', '{}', now(), 1, 'e', CASE WHEN m > 1 THEN 4 WHEN n % 2 = 0 THEN 1 ELSE 3 END,
        now() + interval '1 h', CASE WHEN m = 1 AND n % 2 = 1 THEN now() + interval '1 h' END, 'key-' || n, ARRAY[m]
      FROM generate_series(1, 4000) AS n, generate_series(1, 10) AS m`)
      await raw.query(
        `INSERT INTO ${schema}.outbox_events_keys SELECT 'key-' || n, 10 FROM generate_series(1, 4000) AS n`,
      )
      // Behind the first event of one key are 20,000.
      await raw.query(`INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, attempt, state, visible_at, key, place)
      SELECT 'hot-' || n, 'keyed', '{}', '{}', now(), 1, CASE n WHEN 1 THEN 1 ELSE 4 END, now() + interval '1 h', 'hot', ARRAY[n]
      FROM generate_series(1, 20001) AS n`)
      await raw.query(`INSERT INTO ${schema}.outbox_events_keys VALUES ('hot', 20001)`)
      await raw.query(`VACUUM ${schema}.outbox_events, ${schema}.outbox_events_keys, ${schema}.saga_store`)
    })
    afterAll(async () => {
      await client.close()
      await raw.query(`DROP SCHEMA ${schema} CASCADE`)
      await raw.end()
    })

    /** Has the planner know what ANALYZE found when the table held other rows. */
    const remember = async (rows: string, tuples: number): Promise<void> => {
      const [events, other] = [`${schema}.outbox_events`, `${schema}.other`]
      await raw.query(`CREATE TABLE ${other} (LIKE ${events} INCLUDING ALL)`)
      if (rows) {
        const places = rows.includes('ARRAY') ? ', key, place' : ''
        await raw.query(`INSERT INTO ${other} (id, type, body, headers, created_at, state, visible_at, died_at${places})
        SELECT 'event-' || n, 'type', '{}', '{}', now(), ${rows} FROM generate_series(1, 10000) AS n`)
      }
      await raw.query(`ANALYZE ${other}`)
      const byAddress = `${events}_address`
      const keys = `${events}_keys`
      await raw.query('DELETE FROM pg_statistic WHERE starelid = ANY ($1::text[]::regclass[])', [
        [events, byAddress, keys, `${schema}.saga_store`],
      ])
      await raw.query(
        `UPDATE pg_statistic SET starelid = $1::regclass FROM pg_index
        WHERE starelid = indexrelid AND indrelid = $2::regclass AND indexprs IS NOT NULL`,
        [byAddress, other],
      )
      await raw.query('UPDATE pg_statistic SET starelid = $1::regclass WHERE starelid = $2::regclass', [
        events,
        other,
      ])
      await raw.query(`DROP TABLE ${other}`)
      for (const table of [events, keys])
        await raw.query('UPDATE pg_class SET reltuples = $2 WHERE oid = $1::regclass', [table, tuples])
    }

    /** Takes down the statements, which are refused, and then sees what each would touch. */
    const touchedBy = async (work: () => Promise<unknown>, mode: PlanMode): Promise<Costs> => {
      client.queries.length = 0
      await client.pool.query('SET default_transaction_read_only = on')
      await work().catch(() => {})
      await client.pool.query('SET default_transaction_read_only = off')
      const [query] = client.queries.splice(0).filter(({ text }) => !text.startsWith('SET'))
      if (!query) throw new Error('nothing was asked')
      return costsOf(raw, query, mode)
    }

    const modes: readonly PlanMode[] = ['custom', 'generic']
    for (const [time, rows] of Object.entries(TIMES)) {
      test.each(modes)(`statistics of when the table ${time}, %s plans`, async (mode) => {
        await remember(rows, TUPLES[time] ?? 200_000)
        const { storage } = client.outbox({ schema, logger: false })
        const wrong: object[] = []
        const look = (name: string, asked: number, { rows, buffers }: Costs): void => {
          if (rows > 6 * asked + 20 || buffers > 60 * asked + 200) wrong.push({ name, asked, rows, buffers })
        }
        for (const [name, asked, work] of everything(storage)) look(name, asked, await touchedBy(work, mode))
        for (const [name, asked, ids] of BEHIND) {
          const { text, parameters } = behindStatement(postgresTables({ schema }), ids, asked / ids.length)
          look(name, asked, await costsOf(raw, { text, parameters }, mode))
        }
        expect(wrong).toEqual([])
      })
    }
  },
)

/** What a lease asks for once it has leased the first events of keys. */
const BEHIND: readonly (readonly [name: string, asked: number, ids: readonly string[]])[] = [
  ['behind one of many', 100, ['hot-1']],
  ['behind many', 200 * 7, keys(1, 200).map((key) => `${key.replace('key', 'keyed')}-1`)],
]

const HOT: readonly (Lease & { readonly key: string })[] = [{ id: 'hot-1', attempt: 1, key: 'hot' }]

type Asked = readonly [name: string, asked: number, work: () => Promise<unknown>]

/** Every statement there is, and how many rows it is asked for. */
function everything<Tx, O>(storage: Storage<Tx, O>): Asked[] {
  return [
    ['lease', 100, () => storage.lease({ limit: 100, leaseMs: 60_000, addresses: shares(1, 100) })],
    // Each is looked for, none is there.
    ['lease of many', 400, () => storage.lease({ limit: 100, leaseMs: 60_000, addresses: shares(100, 4) })],
    ['waiting', 2, () => storage.waiting()],
    ['advance', 1, () => storage.advance?.(['key-1']) ?? Promise.resolve()],
    ['advance of the hot key', 1, () => storage.advance?.(['hot']) ?? Promise.resolve()],
    ['advance many', 200, () => storage.advance?.(keys(1, 200)) ?? Promise.resolve()],
    ['advance all', 1_000, () => storage.advance?.() ?? Promise.resolve()],
    ['keep', 1, () => storage.keep('event-4', 60_000)],
    ['dead letters', 100, () => storage.listDead({ limit: 100 })],
    ['dead letters of a type', 10_000, () => storage.listDead({ limit: 100, type: 'none' })],
    // Later, there are those of keys alone: each tells how many are behind it.
    [
      'second page',
      1_000,
      () => storage.listDead({ limit: 100, after: [(Date.now() - 100_000) * 1000, '0'] }),
    ],
    ['payload', 1, () => storage.getPayload('claim-30000')],
    ['purge', 200, () => storage.purge(100)],
    ['emit', 1, () => storage.write([{ append: [chosen('chosen')], put: [], remove: [] }])],
    // A count reads what it counts, due and leased ones together, and nothing that is done.
    ['stats', 40_000, () => storage.stats()],
    ...[1, 2, 200].flatMap((count) => bySize(storage, count)),
  ]
}

function bySize<Tx, O>(storage: Storage<Tx, O>, count: number): Asked[] {
  const leased = leases(2, count)
  const dead = leases(3, count)
  const nothing = { append: [], put: [], remove: [] }
  const write = (
    name: string,
    of: readonly Lease[],
    settle: object,
    rest: (n: number) => object = () => ({}),
    // With a key there is the next one, too, and the key's own row; a run is three events.
    each = name.includes('run') ? 5 : name.includes('key') ? 3 : 1,
  ): Asked => [
    `${name} ${count}`,
    each * count,
    () =>
      storage.write(
        of.map((lease, n) => ({ ...nothing, settle: { ...lease, ...settle } as Settlement, ...rest(n) })),
      ),
  ]
  const put = (n: number) => [
    { id: `claim-${n + 30_000}`, data: Uint8Array.of(1), expires: { inMs: 60_000 } },
  ]
  const remove = (n: number) => [`claim-${n + 40_000}`]
  const complete = { kind: 'complete', keepMs: 0 }
  return [
    write('complete of keys', first(2, count), complete),
    ...(count === 1
      ? [
          write('complete of the hot key', HOT, complete),
          write('complete a run of the hot key', HOT, complete, () => ({
            settle: {
              ...{ ...HOT[0], ...complete, also: ['hot-2', 'hot-3'] },
              take: { id: 'hot-4', leaseMs: 60_000 },
            },
          })),
          write('append to the hot key', [{ id: 'event-2', attempt: 1 }], complete, () => ({
            append: [{ ...chosen('to-hot'), fingerprint: null, key: 'hot' }],
          })),
        ]
      : []),
    write('keep of keys', first(2, count), { kind: 'complete', keepMs: 1_000 }),
    write('discard of keys', first(1, count), { kind: 'discard' }),
    write('step of keys', first(2, count), complete, (n) => ({
      append: [{ ...chosen(`in-place-${n}`), fingerprint: null, key: `key-${2 + 2 * n}`, inPlace: true }],
    })),
    write('complete and append to keys', first(2, count), complete, (n) => ({
      append: [{ ...chosen(`beside-${n}`), fingerprint: null, key: `key-${2 + 2 * n}` }],
    })),
    write('complete a run of keys', first(2, count), complete, (n) => ({
      settle: {
        ...{ ...first(2, count)[n], ...complete, also: [2, 3].map((m) => `keyed-${2 + 2 * n}-${m}`) },
        take: { id: `keyed-${2 + 2 * n}-4`, leaseMs: 60_000 },
      },
    })),
    [
      `append to keys ${count}`,
      count,
      () =>
        storage.write(
          keys(1, count).map((key) => ({ ...nothing, append: [{ ...chosen(`to-${key}`), key }] })),
        ),
    ],
    [
      `dead of keys by id ${count}`,
      9 * count,
      () => storage.listDead({ limit: count, ids: first(1, count).map(({ id }) => id) }),
    ],
    [`extend ${count}`, count, () => storage.extend(leased, 60_000)],
    write('complete', leased, complete),
    write('complete and keep', leased, { kind: 'complete', keepMs: 1_000 }),
    write('retry', leased, { kind: 'retry', delayMs: 1, error: 'e', counted: true }),
    write('bury', leased, { kind: 'bury', error: 'e' }),
    write('step', leased, complete, (n) => ({ put: put(n), remove: remove(n) })),
    write('step to chosen ids', leased, complete, (n) => ({ append: [chosen(`chosen-${n}`)] })),
    write('revive', dead, { kind: 'revive' }),
    write('discard', dead, { kind: 'discard' }),
    [`remove ${count}`, count, () => storage.write(dead.map((_, n) => ({ ...nothing, remove: remove(n) })))],
    [`renew ${count}`, count, () => storage.write(dead.map((_, n) => ({ ...nothing, put: put(n) })))],
    [`dead by id ${count}`, count, () => storage.listDead({ limit: count, ids: dead.map(({ id }) => id) })],
  ]
}

/** Of the eighth of the events that has this place among eight. */
function leases(place: number, count: number): Lease[] {
  return Array.from({ length: count }, (_, n) => ({ id: `event-${place + 8 * (n + 1)}`, attempt: 1 }))
}

/** The first events of every other key, from this one on. */
function first(from: number, count: number): (Lease & { readonly key: string })[] {
  return keys(from, count, 2).map((key) => ({ id: `${key.replace('key', 'keyed')}-1`, attempt: 1, key }))
}

function keys(from: number, count: number, step = 1): string[] {
  return Array.from({ length: count }, (_, n) => `key-${from + step * n}`)
}

function shares(count: number, limit: number): { address: string; limit: number }[] {
  return Array.from({ length: count }, (_, n) => ({ address: n === 0 ? 'type' : `type-${n}`, limit }))
}

function chosen(id: string): NewEvent {
  return {
    ...{ id, type: 'a', address: 'a', key: null, body: '1' },
    ...{ headers: {}, due: { inMs: 0 }, fingerprint: 'f' },
  }
}
