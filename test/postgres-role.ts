import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll } from 'vitest'

/** A role that may do no more than a service has to. */
export interface ServiceRole {
  /** The URL to connect as it. */
  readonly url: string
  /** Everything that it needs in a schema whose tables its owner has created. */
  grant(raw: { query(text: string): Promise<unknown> }, schema: string): Promise<void>
}

/** A role of its own for the tests of a file, gone after them. */
export function serviceRole(url: string): ServiceRole {
  const role = `outbox_service_${randomUUID().slice(0, 8)}`
  const owner = new pg.Client(url)
  beforeAll(async () => {
    await owner.connect()
    await owner.query(`CREATE ROLE ${role} LOGIN PASSWORD 'outbox'`)
  })
  afterAll(async () => {
    await owner.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`)
    await owner.end()
  })
  return {
    url: Object.assign(new URL(url), { username: role, password: 'outbox' }).href,
    async grant(raw, schema) {
      await raw.query(`GRANT USAGE ON SCHEMA ${schema} TO ${role}`)
      const tables = ['outbox_events', 'outbox_events_keys', 'saga_store', 'business'].map(
        (table) => `${schema}.${table}`,
      )
      await raw.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${tables.join(', ')} TO ${role}`)
    },
  }
}
