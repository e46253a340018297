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
  smallint,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import type { PostgresTableOptions } from 'outbox-core/sql'

/** The outbox's tables as Drizzle knows them. */
export interface OutboxTables {
  readonly events: PgTable
  readonly payloads: PgTable
}

/**
 * The outbox's tables for drizzle-kit: `export const { events, payloads } = outboxTables()` in your schema file makes
 * `drizzle-kit generate` create them, and `outbox.initialize()` is not needed. What Drizzle can't express is speed only:
 * add `ALTER TABLE saga_store ALTER COLUMN data SET STORAGE EXTERNAL` to the migration.
 *
 * @param options the same names as the outbox's
 */
export function outboxTables({ schema, tables = {} }: PostgresTableOptions = {}): OutboxTables {
  const { events = 'outbox_events', payloads = 'saga_store' } = tables
  const table = schema === undefined ? pgTable : (pgSchema(schema).table as unknown as PgTableFn)
  return {
    events: table(
      events,
      {
        seq: bigint('seq', { mode: 'bigint' })
          .primaryKey()
          .generatedAlwaysAsIdentity({ name: `${events}_seq_seq` }),
        id: identifierText('id').notNull(),
        type: text('type').notNull(),
        body: text('body').notNull(),
        headers: text('headers').notNull(),
        fingerprint: text('fingerprint'),
        createdAt: timestamp('created_at', { withTimezone: true }).notNull(),
        visibleAt: timestamp('visible_at', { withTimezone: true }).notNull(),
        attempt: integer('attempt').notNull().default(0),
        uncounted: integer('uncounted').notNull().default(0),
        state: smallint('state').notNull().default(0),
        error: text('error'),
        diedAt: timestamp('died_at', { withTimezone: true }),
      },
      (row) => [
        uniqueIndex(`${events}_id`).on(row.id),
        index(`${events}_open`).on(row.visibleAt, row.seq).where(sql`state < 2`),
        index(`${events}_done`).on(row.visibleAt).where(sql`state = 2`),
        index(`${events}_dead`).on(row.diedAt, row.seq).where(sql`state = 3`),
      ],
    ),
    payloads: table(
      payloads,
      {
        id: identifierText('id').primaryKey(),
        data: bytea('data').notNull(),
        expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
      },
      (row) => [index(`${payloads}_expires`).on(row.expiresAt)],
    ),
  }
}

const bytea = customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })

const identifierText = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' })
