import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { postgresBackend } from '../../../test/postgres-backend.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { nodePostgres, postgresJs } from './clients.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  outboxContract(postgresBackend('Drizzle on node-postgres', url, (name) => nodePostgres(url, name)))
  outboxContract(postgresBackend('Drizzle on postgres.js', url, (name) => postgresJs(url, name)))
})
