import { sql } from 'drizzle-orm'
import {
  bigint,
  customType,
  index,
  integer,
  type PgTable,
  type PgTableFn,
  pgSchema,
  pgTable,
  primaryKey,
  smallint,
  text,
  timestamp,
} from 'drizzle-orm/pg-core'
import { type PostgresTableOptions, postgresTables } from 'outbox-core/sql'

/** The outbox's tables as Drizzle knows them. */
export interface OutboxTables {
  readonly events: PgTable
  readonly payloads: PgTable
  readonly keys: PgTable
  readonly migrations: PgTable
}

/**
 * The outbox's tables for drizzle-kit: `export const { events, payloads, keys, migrations } = outboxTables()` in your
 * schema file makes `drizzle-kit generate` create them. `outbox.initialize()` is not needed then. Called by their owner it
 * adds what Drizzle can't express, which is speed: how `data` and `body` are stored, and how often tables are vacuumed.
 *
 * @param options the same names as the outbox's
 * @throws ConfigurationError naming the option and its value
 */
export function outboxTables(options: PostgresTableOptions = {}): OutboxTables {
  const { names } = postgresTables(options)
  const { schema } = options
  const table = schema === undefined ? pgTable : (pgSchema(schema).table as unknown as PgTableFn)
  return {
    events: eventsTable(table, names.events),
    payloads: table(
      names.payloads,
      {
        id: asciiText('id').primaryKey(),
        data: bytea('data').notNull(),
        expiresAt: moment('expires_at').notNull(),
      },
      (row) => [index(`${names.payloads}_expires`).on(row.expiresAt)],
    ),
    keys: table(names.keys, {
      key: asciiText('key').primaryKey(),
      version: bigint('version', { mode: 'bigint' }).notNull(),
    }),
    migrations: table(
      names.migrations,
      {
        tables: asciiText('tables').notNull(),
        version: integer('version').notNull(),
        appliedAt: moment('applied_at').notNull().defaultNow(),
      },
      (row) => [primaryKey({ name: `${names.migrations}_pkey`, columns: [row.tables, row.version] })],
    ),
  }
}

function eventsTable(table: PgTableFn, name: string): PgTable {
  return table(
    name,
    {
      id: asciiText('id').primaryKey(),
      seq: bigint('seq', { mode: 'bigint' }).generatedAlwaysAsIdentity({ name: `${name}_seq_seq` }),
      type: text('type').notNull(),
      body: text('body').notNull(),
      headers: text('headers').notNull(),
      fingerprint: text('fingerprint'),
      createdAt: moment('created_at').notNull(),
      visibleAt: moment('visible_at').notNull(),
      attempt: integer('attempt').notNull().default(0),
      uncounted: integer('uncounted').notNull().default(0),
      state: smallint('state').notNull().default(0),
      error: text('error'),
      diedAt: moment('died_at'),
      address: asciiText('address'),
      key: asciiText('key'),
      place: bigint('place', { mode: 'bigint' }).array(),
    },
    (row) => [
      index(`${name}_address`)
        .on(sql`(coalesce(address, type) COLLATE "C")`, row.visibleAt, row.seq)
        .where(sql`state < 2`),
      index(`${name}_key`).on(row.key, row.place).where(sql`key IS NOT NULL`),
      index(`${name}_done`).on(row.visibleAt).where(sql`state = 2`),
      index(`${name}_dead`).on(row.diedAt, row.seq).where(sql`state = 3`),
    ],
  )
}

const moment = (name: string) => timestamp(name, { withTimezone: true })

const bytea = customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })

const asciiText = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' })
