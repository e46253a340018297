import type { PGlite } from '@electric-sql/pglite'
import { sql } from 'drizzle-orm'
import { drizzle as overNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as overPglite } from 'drizzle-orm/pglite'
import { drizzle as overPostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import type { Client } from '../../../test/postgres-backend.ts'
import { PostgresDrizzleOutbox } from '../src/index.ts'

const insert = (text: string, key: string) => {
  const [before = '', after = ''] = text.split('$1')
  return sql.join([sql.raw(before), sql`${key}`, sql.raw(after)])
}

type NodePostgres = ReturnType<typeof overNodePostgres>
export type NodePostgresTx = Parameters<Parameters<NodePostgres['transaction']>[0]>[0]
type TxOptions<Db extends { transaction(...args: never[]): unknown }> = Parameters<Db['transaction']>[1]

export interface Query {
  readonly text: string
  readonly parameters: readonly unknown[]
}

export async function nodePostgres(
  url: string,
  applicationName: string,
  max = 4,
): Promise<Client<NodePostgresTx, TxOptions<NodePostgres>> & { pool: pg.Pool; queries: Query[] }> {
  const queries: Query[] = []
  const pool = new pg.Pool({ connectionString: url, application_name: applicationName, max, min: max })
  pool.on('error', () => {})
  // A connection that dies while a transaction holds it would end the process.
  pool.on('connect', (client) => client.on('error', () => {}))
  // Every connection is there from the start, so that one more would be seen.
  const all = await Promise.all(Array.from({ length: max }, () => pool.connect()))
  for (const client of all) client.release()
  const logger = { logQuery: (text: string, parameters: unknown[]) => queries.push({ text, parameters }) }
  const db = overNodePostgres(pool, { logger })
  return {
    pool,
    queries,
    outbox: (options) => new PostgresDrizzleOutbox(db, options),
    execute: (tx, text, key) => tx.execute(insert(text, key)),
    transaction: (work) => db.transaction(work),
    statements: () => queries.length,
    close: () => (pool.ended ? Promise.resolve() : pool.end()),
  }
}

type PostgresJs = ReturnType<typeof overPostgresJs>
export type PostgresJsTx = Parameters<Parameters<PostgresJs['transaction']>[0]>[0]

export async function postgresJs(
  url: string,
  applicationName: string,
  max = 4,
): Promise<Client<PostgresJsTx, TxOptions<PostgresJs>>> {
  let statements = 0
  const client = postgres(url, {
    max,
    idle_timeout: 0,
    // Its own query at connect has nobody who catches it.
    fetch_types: false,
    onnotice: () => {},
    connection: { application_name: applicationName },
  })
  await Promise.all(Array.from({ length: max }, () => client`SELECT pg_sleep(0.02)`))
  const db = overPostgresJs(client, { logger: { logQuery: () => statements++ } })
  return {
    outbox: (options) => new PostgresDrizzleOutbox(db, options),
    execute: (tx, text, key) => tx.execute(insert(text, key)),
    transaction: (work) => db.transaction(work),
    statements: () => statements,
    // Without a limit it never ends once a connection was lost.
    close: () => client.end({ timeout: 1 }),
  }
}

type Lite = ReturnType<typeof overPglite>
type LiteTx = Parameters<Parameters<Lite['transaction']>[0]>[0]

/** Every place is a schema of one database: starting one takes a second. */
export function pglite(lite: PGlite): Promise<Client<LiteTx, TxOptions<Lite>>> {
  let statements = 0
  const db = overPglite(lite, { logger: { logQuery: () => statements++ } })
  return Promise.resolve({
    outbox: (options) => new PostgresDrizzleOutbox(db, options),
    execute: (tx, text, key) => tx.execute(insert(text, key)),
    transaction: (work) => db.transaction(work),
    statements: () => statements,
    close: async () => {},
  })
}
