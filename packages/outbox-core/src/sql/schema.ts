import { createHash } from 'node:crypto'
import { UnsupportedBackendError } from '../errors.ts'
import { identifier, identifiers } from '../options.ts'
import type { PostgresExecutor } from './executor.ts'

export interface PostgresTableOptions {
  /** Schema of the tables; it has to exist. @default the connection's search path */
  readonly schema?: string
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
    /** @default 'outbox_migrations' */
    readonly migrations?: string
  }
}

/** Checked names, and the same quoted and qualified. */
export interface PostgresTables {
  readonly events: string
  readonly payloads: string
  readonly migrations: string
  /** Without the schema: for indexes, and for whoever quotes by himself. */
  readonly names: { readonly events: string; readonly payloads: string; readonly migrations: string }
  /** Channel for NOTIFY: short enough, and the same whether a client quotes it or not. */
  readonly channel: string
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

/** @throws ConfigurationError naming the option and its value */
export function postgresTables({ schema, tables = {} }: PostgresTableOptions = {}): PostgresTables {
  const names = identifiers('tables', {
    events: tables.events ?? 'outbox_events',
    payloads: tables.payloads ?? 'saga_store',
    migrations: tables.migrations ?? 'outbox_migrations',
  })
  const prefix = schema === undefined ? '' : `"${identifier('schema', schema)}".`
  return {
    events: `${prefix}"${names.events}"`,
    payloads: `${prefix}"${names.payloads}"`,
    migrations: `${prefix}"${names.migrations}"`,
    names,
    channel: `outbox_${digest(`${schema ?? ''}.${names.events}`)}`,
  }
}

/**
 * The statements that create everything, one list for each numbered migration. Never change one that was released:
 * append another. For users who migrate with a tool of their own; `outbox.initialize()` is then not needed, and
 * changes nothing when called all the same.
 *
 * @throws ConfigurationError naming the option and its value
 */
export function postgresMigrations(options: PostgresTableOptions = {}): readonly (readonly string[])[] {
  const { events, payloads, names } = postgresTables(options)
  return [
    [
      `CREATE TABLE IF NOT EXISTS ${events} (
        id text COLLATE "C" PRIMARY KEY,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        type text NOT NULL,
        body text NOT NULL,
        headers text NOT NULL,
        fingerprint text,
        created_at timestamptz NOT NULL,
        visible_at timestamptz NOT NULL,
        attempt integer NOT NULL DEFAULT 0,
        uncounted integer NOT NULL DEFAULT 0,
        state smallint NOT NULL DEFAULT 0,
        error text,
        died_at timestamptz
      )`,
      // Most rows live for milliseconds: vacuum by the number of dead ones, whatever the size of the table. Every
      // update moves visible_at, which is indexed: a fillfactor would leave room for nothing.
      `ALTER TABLE ${events} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
      `CREATE INDEX IF NOT EXISTS "${names.events}_open" ON ${events} (visible_at, seq) WHERE state < 2`,
      `CREATE INDEX IF NOT EXISTS "${names.events}_done" ON ${events} (visible_at) WHERE state = 2`,
      `CREATE INDEX IF NOT EXISTS "${names.events}_dead" ON ${events} (died_at, seq) WHERE state = 3`,
      `CREATE TABLE IF NOT EXISTS ${payloads} (
        id text COLLATE "C" PRIMARY KEY,
        data bytea NOT NULL,
        expires_at timestamptz NOT NULL
      )`,
      // The bytes are compressed already.
      `ALTER TABLE ${payloads} ALTER COLUMN data SET STORAGE EXTERNAL`,
      `CREATE INDEX IF NOT EXISTS "${names.payloads}_expires" ON ${payloads} (expires_at)`,
    ],
    // Compressing a body costs more than writing it, and few live long enough to be worth it.
    [`ALTER TABLE ${events} ALTER COLUMN body SET STORAGE EXTERNAL`],
  ]
}

/** Where migrations are noted, for every pair of tables: there may be several outboxes in one schema. */
const notes = (table: string): string => `CREATE TABLE IF NOT EXISTS ${table} (
  tables text COLLATE "C" NOT NULL,
  version integer NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tables, version)
)`

/**
 * Brings the tables up to date, in one transaction that other processes wait for. Where nothing is to be done it only
 * looks, so that a user without the right to create tables may call it too.
 */
export async function migratePostgres<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  options: PostgresTableOptions,
): Promise<void> {
  const { migrations, names } = postgresTables(options)
  const tables = `${names.events} ${names.payloads}`
  const wanted = postgresMigrations(options)
  const applied = async (tx?: Tx): Promise<number> => {
    const text = `SELECT coalesce(max(version), 0)::int AS done FROM ${migrations} WHERE tables = $1::text`
    const [row] = await executor.query(text, [tables], tx)
    return (row as { done: number }).done
  }
  if ((await migrationsExist(executor, migrations)) && (await applied()) >= wanted.length) return
  await executor.transaction(async (tx) => {
    const run = (text: string, ...parameters: (string | number)[]) => executor.query(text, parameters, tx)
    // What others did while this one waited for the lock has to be seen, whatever isolation is the default.
    await run('SET TRANSACTION ISOLATION LEVEL READ COMMITTED')
    await run('SELECT 1 AS locked FROM pg_advisory_xact_lock(hashtext($1::text))', migrations)
    await run(notes(migrations))
    const done = await applied(tx)
    for (const [index, statements] of wanted.entries()) {
      if (index < done) continue
      for (const statement of statements) await run(statement)
      await run(`INSERT INTO ${migrations} (tables, version) VALUES ($1::text, $2::int)`, tables, index + 1)
    }
  })
}

async function migrationsExist<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  table: string,
): Promise<boolean> {
  const text =
    "SELECT to_regclass($1::text) IS NOT NULL AS there, current_setting('server_encoding') AS encoding"
  const [found] = await executor.query(text, [table])
  const { there, encoding } = found as { there: boolean; encoding: string }
  if (encoding === 'UTF8') return there
  throw new UnsupportedBackendError(
    `the database has the encoding ${encoding}, which can't hold every text; use one created with ENCODING 'UTF8'`,
  )
}
