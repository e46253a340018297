import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import type { Outbox } from 'outbox-core'
import { PostgresDrizzleOutbox } from 'outbox-postgres-drizzle'
import type { Open } from './adapter.ts'
import { contentsOf, createPool, createSchema } from './postgres.ts'

export const open: Open = async (url, schema, { poolSize, impatient, faults, ...options } = {}) => {
  const pool = createPool(url, { poolSize, impatient, faults })
  const db = drizzle(pool)
  const outbox = new PostgresDrizzleOutbox(db, { schema, logger: false, ...options })
  return {
    outbox: outbox as unknown as Outbox,
    async prepare() {
      await createSchema(pool, schema)
      await outbox.initialize()
    },
    write: (tx, key) =>
      (tx as typeof db).execute(sql`INSERT INTO ${sql.identifier(schema)}.rows VALUES (${key})`),
    contents: () => contentsOf(pool, schema),
    async close() {
      await outbox.close()
      await pool.end()
    },
  }
}
