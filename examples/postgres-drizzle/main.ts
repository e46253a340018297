/** Drizzle on postgres.js: DATABASE_URL=postgres://… npm run example postgres-drizzle */
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import { PostgresDrizzleOutbox } from 'outbox-postgres-drizzle'
import postgres from 'postgres'
import { runOrders } from '../orders.ts'

const client = postgres(process.env['DATABASE_URL'] ?? '', { onnotice: () => {} }) // your own client
const db = drizzle(client)
await db.execute(sql`CREATE SCHEMA IF NOT EXISTS drizzle_example`)
await db.execute(sql`CREATE TABLE IF NOT EXISTS drizzle_example.orders (id text)`)

// The same connection settings may LISTEN: events of other processes are then handled at once.
const outbox = new PostgresDrizzleOutbox(db, { schema: 'drizzle_example', listener: client })
await runOrders(outbox, (tx, id) => tx.execute(sql`INSERT INTO drizzle_example.orders VALUES (${id})`))

await db.execute(sql`DROP SCHEMA drizzle_example CASCADE`)
await client.end()
