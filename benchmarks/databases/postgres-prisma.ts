import { fileURLToPath } from 'node:url'
import { PrismaPg } from '@prisma/adapter-pg'
import { PostgresPrismaOutbox, type PrismaTransaction } from 'outbox-postgres-prisma'
import {
  generateClient,
  type TestPrismaConstructor,
} from '../../packages/outbox-postgres-prisma/test/prisma.ts'
import type { Arm, Contender, OpenOptions } from '../contender.ts'
import { ours } from '../ours.ts'
import { openSchema } from './postgres-schema.ts'

const FOLDER = fileURLToPath(new URL('generated', import.meta.url))

/** Ours through Prisma, on the server where the others go through Drizzle or node-postgres. */
export function throughPrisma(connectionString: string): Arm {
  let generated: Promise<TestPrismaConstructor> | undefined
  return {
    name: 'ours, through Prisma',
    role: 'other',
    async open(options = {}) {
      generated ??= generateClient(FOLDER)
      return open(await generated, connectionString, options)
    },
  }
}

async function open(
  PrismaClient: TestPrismaConstructor,
  connectionString: string,
  options: OpenOptions,
): Promise<Contender> {
  const { schema, pool, close } = await openSchema(connectionString, options)
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) })
  const outbox = new PostgresPrismaOutbox(prisma, { schema, logger: false })
  await outbox.initialize()
  return ours<PrismaTransaction>({
    place: schema,
    outbox,
    write: (tx) => tx.$executeRawUnsafe(`INSERT INTO ${schema}.business VALUES (1)`),
    async close() {
      await prisma.$disconnect()
      await close()
    },
  })
}
