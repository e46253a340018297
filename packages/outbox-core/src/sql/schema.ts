import { createHash } from 'node:crypto'
import { identifier, identifiers } from '../options.ts'

export interface PostgresTableOptions {
  /** Schema of the tables; it has to exist. @default the connection's search path */
  readonly schema?: string
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
    /** @default the name of the events' table and '_keys' */
    readonly keys?: string
    /** @default 'outbox_migrations' */
    readonly migrations?: string
  }
}

/** Checked names, and the same quoted and qualified. */
export interface PostgresTables {
  readonly events: string
  readonly payloads: string
  readonly keys: string
  readonly migrations: string
  /** Without the schema: for indexes, and for whoever quotes by himself. */
  readonly names: Readonly<Record<'events' | 'payloads' | 'keys' | 'migrations', string>>
  /** Channel for NOTIFY: short enough, and the same whether a client quotes it or not. */
  readonly channel: string
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

/** @throws ConfigurationError naming the option and its value */
export function postgresTables({ schema, tables = {} }: PostgresTableOptions = {}): PostgresTables {
  const names = namesOf(tables)
  const prefix = schema === undefined ? '' : `"${identifier('schema', schema)}".`
  return {
    events: `${prefix}"${names.events}"`,
    payloads: `${prefix}"${names.payloads}"`,
    keys: `${prefix}"${names.keys}"`,
    migrations: `${prefix}"${names.migrations}"`,
    names,
    channel: `outbox_${digest(`${schema ?? ''}.${names.events}`)}`,
  }
}

function namesOf(tables: NonNullable<PostgresTableOptions['tables']>): PostgresTables['names'] {
  const events = identifier('tables.events', tables.events ?? 'outbox_events')
  // The longest name that events may have leaves room for more than a name of a user's own may have.
  const keys = tables.keys ?? (events.length > 43 ? 'keys' : `${events}_keys`)
  const names = identifiers('tables', {
    events,
    payloads: tables.payloads ?? 'saga_store',
    migrations: tables.migrations ?? 'outbox_migrations',
    keys,
  })
  return { ...names, keys: tables.keys ?? `${events}_keys` }
}

/** One statement of a migration, and how the catalog shows that it is done: see `migratePostgres`. */
export interface MigrationStep {
  readonly text: string
  readonly shows: string
  /** What shows that a later step has undone it. */
  readonly undone?: string
  /** It only speeds things up. */
  readonly tunes?: true
}

/**
 * Everything that makes the tables, one list for each numbered migration. Never change one that was released: append
 * another.
 */
export function migrationSteps({
  events,
  payloads,
  keys,
  names,
}: PostgresTables): readonly (readonly MigrationStep[])[] {
  const index = (name: string, on: string): MigrationStep => ({
    text: `CREATE INDEX IF NOT EXISTS "${name}" ON ${on}`,
    shows: `index ${name}`,
  })
  return [
    [
      {
        text: `CREATE TABLE IF NOT EXISTS ${events} (
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
        shows: 'table events',
      },
      // Most rows live for milliseconds: vacuum by the number of dead ones, whatever the size of the table. Every
      // update moves visible_at, which is indexed: a fillfactor would leave room for nothing.
      {
        text: `ALTER TABLE ${events} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
        shows: 'option autovacuum_vacuum_threshold',
        tunes: true,
      },
      {
        ...index(`${names.events}_open`, `${events} (visible_at, seq) WHERE state < 2`),
        undone: `index ${names.events}_address`,
      },
      index(`${names.events}_done`, `${events} (visible_at) WHERE state = 2`),
      index(`${names.events}_dead`, `${events} (died_at, seq) WHERE state = 3`),
      {
        text: `CREATE TABLE IF NOT EXISTS ${payloads} (
        id text COLLATE "C" PRIMARY KEY,
        data bytea NOT NULL,
        expires_at timestamptz NOT NULL
      )`,
        shows: 'table payloads',
      },
      // The bytes are compressed already.
      {
        text: `ALTER TABLE ${payloads} ALTER COLUMN data SET STORAGE EXTERNAL`,
        shows: 'external data',
        tunes: true,
      },
      index(`${names.payloads}_expires`, `${payloads} (expires_at)`),
    ],
    // Compressing a body costs more than writing it, and few live long enough to be worth it.
    [
      {
        text: `ALTER TABLE ${events} ALTER COLUMN body SET STORAGE EXTERNAL`,
        shows: 'external body',
        tunes: true,
      },
    ],
    // Addresses and keys. Rows that are there stay as they are: without an address it is their type.
    [
      {
        text: `ALTER TABLE ${events} ADD COLUMN IF NOT EXISTS address text COLLATE "C",
        ADD COLUMN IF NOT EXISTS key text COLLATE "C", ADD COLUMN IF NOT EXISTS place bigint[]`,
        shows: 'column place',
      },
      index(`${names.events}_address`, `${events} (${ADDRESS}, visible_at, seq) WHERE state < 2`),
      index(`${names.events}_key`, `${events} (key, place) WHERE key IS NOT NULL`),
      {
        text: `DROP INDEX IF EXISTS ${schemaOf(events)}"${names.events}_open"`,
        shows: 'leases by address only',
      },
      {
        text: `CREATE TABLE IF NOT EXISTS ${keys} (
        key text COLLATE "C" PRIMARY KEY,
        version bigint NOT NULL
      )`,
        shows: 'table keys',
      },
      // A row lives as long as its key has events, and is updated with every one of them: in its own page.
      {
        text: `ALTER TABLE ${keys} SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`,
        shows: 'option of keys fillfactor',
        tunes: true,
      },
    ],
  ]
}

/** What an index goes by has to be asked for in the same words. */
export const ADDRESS = '(coalesce(address, type) COLLATE "C")'

function schemaOf(table: string): string {
  return table.slice(0, table.lastIndexOf('"', table.length - 2))
}

/** What notes belong to: there may be several outboxes in one schema. */
export function notedAs({ names }: PostgresTables): string {
  return `${names.events} ${names.payloads}`
}

/** Where migrations are noted, for every pair of tables. */
export function createNotes({ migrations }: PostgresTables): string {
  return `CREATE TABLE IF NOT EXISTS ${migrations} (
        tables text COLLATE "C" NOT NULL,
        version integer NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tables, version)
      )`
}

/** That a migration is done. */
export function note(tables: PostgresTables, version: number): string {
  return `INSERT INTO ${tables.migrations} (tables, version) VALUES ('${notedAs(tables)}', ${version}) ON CONFLICT DO NOTHING`
}

/**
 * The statements that create everything, one list for each numbered migration, the notes that they are done included.
 * For users who migrate with a tool of their own, as the owner of the tables; `outbox.initialize()` is then not needed,
 * asks for no rights, and changes nothing when called all the same.
 *
 * @throws ConfigurationError naming the option and its value
 */
export function postgresMigrations(options: PostgresTableOptions = {}): readonly (readonly string[])[] {
  const tables = postgresTables(options)
  return migrationSteps(tables).map((steps, index) => [
    ...(index === 0 ? [createNotes(tables)] : []),
    ...steps.map(({ text }) => text),
    note(tables, index + 1),
  ])
}
