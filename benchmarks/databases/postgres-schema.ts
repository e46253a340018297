import pg from 'pg'
import type { OpenOptions } from '../contender.ts'
import { newPlace } from './servers.ts'

/** A schema with a table of the user's own, and a pool of connections to its server. */
export interface OpenSchema {
  readonly schema: string
  readonly pool: pg.Pool
  close(): Promise<void>
}

/** Opens the schema that is the place, or creates one, which is gone when it is closed. */
export async function openSchema(
  connectionString: string,
  { place, onCall }: OpenOptions,
): Promise<OpenSchema> {
  const pool = new pg.Pool({ connectionString, max: 24 })
  pool.on('error', () => {})
  if (onCall) pool.on('connect', (client) => counting(client, onCall))
  const schema = place ?? newPlace()
  if (place === undefined) await pool.query(`CREATE SCHEMA ${schema}`)
  await pool.query(`CREATE TABLE IF NOT EXISTS ${schema}.business (n int)`)
  return {
    schema,
    pool,
    async close() {
      if (place === undefined) await pool.query(`DROP SCHEMA ${schema} CASCADE`)
      await pool.end()
    },
  }
}

function counting(client: pg.PoolClient, onCall: () => void): void {
  const query = client.query.bind(client) as (...parameters: unknown[]) => unknown
  Object.assign(client, {
    query(...parameters: unknown[]) {
      onCall()
      return query(...parameters)
    },
  })
}
