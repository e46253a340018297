import { identifier } from '../options.ts'
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
  /** Prefix for indexes, which take no schema. */
  readonly eventsName: string
  readonly payloadsName: string
  /** Channel for NOTIFY. */
  readonly channel: string
}

/** @throws ConfigurationError naming the option and its value */
export function postgresTables({ schema, tables = {} }: PostgresTableOptions = {}): PostgresTables {
  const eventsName = identifier('tables.events', tables.events ?? 'outbox_events')
  const payloadsName = identifier('tables.payloads', tables.payloads ?? 'saga_store')
  const migrations = identifier('tables.migrations', tables.migrations ?? 'outbox_migrations')
  const prefix = schema === undefined ? '' : `"${identifier('schema', schema)}".`
  return {
    events: `${prefix}"${eventsName}"`,
    payloads: `${prefix}"${payloadsName}"`,
    migrations: `${prefix}"${migrations}"`,
    eventsName,
    payloadsName,
    // Channel names are cut at 63 bytes; these two are at most 48 each.
    channel: `${(schema ?? '').slice(0, 14)}.${eventsName}`,
  }
}

/**
 * The statements that create everything, one list for each numbered migration. Never change one that was released:
 * append another. For users who migrate with a tool of their own, `outbox.initialize()` is then not needed.
 */
export function postgresMigrations(options: PostgresTableOptions = {}): readonly (readonly string[])[] {
  const { events, payloads, eventsName, payloadsName } = postgresTables(options)
  return [
    [
      `CREATE TABLE ${events} (
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
      // Most rows live for milliseconds: vacuum by the number of dead ones, whatever the size of the table.
      `ALTER TABLE ${events} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
      `CREATE INDEX "${eventsName}_open" ON ${events} (visible_at, seq) WHERE state < 2`,
      `CREATE INDEX "${eventsName}_done" ON ${events} (visible_at) WHERE state = 2`,
      `CREATE INDEX "${eventsName}_dead" ON ${events} (died_at, seq) WHERE state = 3`,
      `CREATE TABLE ${payloads} (
        id text COLLATE "C" PRIMARY KEY,
        data bytea NOT NULL,
        expires_at timestamptz NOT NULL
      )`,
      // The bytes are compressed already.
      `ALTER TABLE ${payloads} ALTER COLUMN data SET STORAGE EXTERNAL`,
      `CREATE INDEX "${payloadsName}_expires" ON ${payloads} (expires_at)`,
    ],
  ]
}

/** Brings the tables up to date, in one transaction that other processes wait for. */
export async function migratePostgres<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  options: PostgresTableOptions,
): Promise<void> {
  const { migrations } = postgresTables(options)
  await executor.transaction(async (tx) => {
    const run = (text: string, ...parameters: (string | number)[]) => executor.query(text, parameters, tx)
    await run('SELECT 1 AS locked FROM pg_advisory_xact_lock(hashtext($1::text))', migrations)
    await run(
      `CREATE TABLE IF NOT EXISTS ${migrations} (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`,
    )
    const [row] = (await run(`SELECT coalesce(max(version), 0)::int AS done FROM ${migrations}`)) as {
      done: number
    }[]
    const done = row?.done ?? 0
    for (const [index, statements] of postgresMigrations(options).entries()) {
      if (index < done) continue
      for (const statement of statements) await run(statement)
      await run(`INSERT INTO ${migrations} (version) VALUES ($1::int)`, index + 1)
    }
  })
}
