import { fileURLToPath } from 'node:url'
import { PrismaPg } from '@prisma/adapter-pg'
import type { Outbox } from 'outbox-core'
import { PostgresPrismaOutbox, type PrismaTransaction } from 'outbox-postgres-prisma'
import { loadClient } from '../../../packages/outbox-postgres-prisma/test/prisma.ts'
import type { Open } from './adapter.ts'
import { contentsOf, createPool, createSchema } from './postgres.ts'

// Not the folder of the adapter's own tests, which may be generating at the same moment; the same from the bundle.
const folder = fileURLToPath(new URL('../generated/prisma', import.meta.url))

export const open: Open = async (url, schema, { poolSize, impatient, faults, ...options } = {}) => {
  const PrismaClient = await loadClient(folder)
  const prisma = new PrismaClient({
    adapter: new PrismaPg(createPool(url, { poolSize, impatient, faults }), { disposeExternalPool: true }),
  })
  const outbox = new PostgresPrismaOutbox(prisma, { schema, logger: false, ...options })
  const pool = createPool(url, { poolSize: 1 })
  return {
    outbox: outbox as unknown as Outbox,
    async prepare() {
      await createSchema(pool, schema)
      await outbox.initialize()
    },
    write: (tx, key) =>
      (tx as PrismaTransaction).$executeRawUnsafe(`INSERT INTO ${schema}.rows VALUES ($1)`, key),
    contents: () => contentsOf(pool, schema),
    async close() {
      await outbox.close()
      await prisma.$disconnect()
      await pool.end()
    },
  }
}
