import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { postgresBackend, rawClient } from '../../../test/postgres-backend.ts'
import { serviceRole } from '../../../test/postgres-role.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { connect, generateClient, generatedFolder } from './prisma.ts'

const url = serverUrl()
const PrismaClient = await generateClient(generatedFolder('contract'))

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  const role = serviceRole(url)
  outboxContract(
    postgresBackend(
      'Prisma on adapter-pg',
      () => rawClient(url),
      (name) => connect(PrismaClient, role.url, name),
      { role },
    ),
  )
})
