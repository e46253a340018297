import type { RawClient } from './postgres-backend.ts'

/** Every column and index of a schema, as Postgres describes them, without the schema's own name. */
export async function catalog(raw: RawClient, schema: string): Promise<unknown> {
  const columns = await raw.query(
    `SELECT table_name, column_name, data_type, datetime_precision, is_nullable, column_default, identity_generation,
       collation_name
     FROM information_schema.columns WHERE table_schema = $1 ORDER BY table_name, column_name`,
    [schema],
  )
  const indexes = await raw.query(
    `SELECT tablename, indexname, replace(indexdef, quote_ident($1) || '.', '') AS definition
     FROM pg_indexes WHERE schemaname = $1 ORDER BY tablename, indexname`,
    [schema],
  )
  return { columns: columns.rows, indexes: indexes.rows }
}

/** What only speeds things up: how bodies and payload bytes are stored, how often the events are vacuumed. */
export async function tuning(raw: RawClient, schema: string): Promise<unknown> {
  const { rows } = await raw.query(
    `SELECT relname, reloptions, (SELECT attstorage FROM pg_attribute WHERE attrelid = c.oid AND attname IN ('body', 'data')) AS storage
     FROM pg_class AS c WHERE relkind = 'r' AND relnamespace = $1::regnamespace ORDER BY relname`,
    [schema],
  )
  return rows
}
