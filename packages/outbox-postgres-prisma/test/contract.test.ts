import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { postgresBackend } from '../../../test/postgres-backend.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { connect, generateClient } from './prisma.ts'

const url = serverUrl()
const PrismaClient = await generateClient()

describe.skipIf(url === undefined)('Postgres', () => {
  if (url !== undefined)
    outboxContract(postgresBackend('Prisma on adapter-pg', url, connect(PrismaClient, url)))
})
