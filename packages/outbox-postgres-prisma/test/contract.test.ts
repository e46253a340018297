import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { postgresBackend, rawClient } from '../../../test/postgres-backend.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { connect, generateClient, generatedFolder } from './prisma.ts'

const url = serverUrl()
const PrismaClient = await generateClient(generatedFolder('contract'))

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  outboxContract(
    postgresBackend(
      'Prisma on adapter-pg',
      () => rawClient(url),
      (name) => connect(PrismaClient, url, name),
    ),
  )
})
