import { PGlite } from '@electric-sql/pglite'
import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { postgresBackend, rawClient } from '../../../test/postgres-backend.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { nodePostgres, pglite, postgresJs } from './clients.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  const raw = () => rawClient(url)
  outboxContract(postgresBackend('Drizzle on node-postgres', raw, (name) => nodePostgres(url, name)))
  outboxContract(postgresBackend('Drizzle on postgres.js', raw, (name) => postgresJs(url, name)))
})

describe('in this process', () => {
  const lite = new PGlite()
  const raw = async () => ({
    query: (text: string, parameters?: unknown[]) => lite.query(text, parameters),
    end: async () => {},
  })
  outboxContract(postgresBackend('Drizzle on PGlite', raw, () => pglite(lite), { singleClient: true }))
})
