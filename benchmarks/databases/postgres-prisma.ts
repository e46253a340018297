import { randomUUID } from 'node:crypto'
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

interface Opened {
  readonly schema: string
  readonly prisma: InstanceType<TestPrismaConstructor>
  readonly ours: Contender
}

/** Ours through Prisma, on the server where the others go through Drizzle or node-postgres; and Prisma by hand. */
export function throughPrisma(connectionString: string): { readonly ours: Arm; readonly byHand: Arm } {
  let generated: Promise<TestPrismaConstructor> | undefined
  const arm = (name: string, contender: (opened: Opened) => Contender): Arm => ({
    name,
    role: 'other',
    async open(options = {}) {
      generated ??= generateClient(FOLDER)
      return contender(await open(await generated, connectionString, options))
    },
  })
  return { ours: arm('ours, through Prisma', ({ ours: it }) => it), byHand: arm('Prisma by hand', byHand) }
}

/** Emits by hand; whatever else is asked of it, ours does. */
function byHand({ schema, prisma, ours: it }: Opened): Contender {
  const insert = `INSERT INTO ${schema}.outbox_events (id, type, body, headers, created_at, visible_at)`
  const one = `${insert} VALUES ($1::text, 'noop', $2::text, '{}', now(), now())`
  const many = `${insert} SELECT id, 'noop', body, '{}', now(), now() FROM unnest($1::text[], $2::text[]) AS e (id, body)`
  return {
    ...it,
    // Prisma runs a query when it is awaited.
    emit: async (payload) =>
      void (await prisma.$executeRawUnsafe(one, randomUUID(), JSON.stringify(payload))),
    emitInTransaction: (payload) =>
      prisma.$transaction(async (tx) => {
        await tx.$executeRawUnsafe(`INSERT INTO ${schema}.business VALUES (1)`)
        await tx.$executeRawUnsafe(one, randomUUID(), JSON.stringify(payload))
      }),
    async emitMany(payloads) {
      const ids = payloads.map(() => randomUUID())
      const bodies = payloads.map((payload) => JSON.stringify(payload))
      await prisma.$executeRawUnsafe(many, ids, bodies)
    },
  }
}

async function open(
  PrismaClient: TestPrismaConstructor,
  connectionString: string,
  options: OpenOptions,
): Promise<Opened> {
  const { schema, pool, close } = await openSchema(connectionString, options)
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) })
  const outbox = new PostgresPrismaOutbox(prisma, { schema, logger: false })
  await outbox.initialize()
  const contender = ours<PrismaTransaction>({
    place: schema,
    outbox,
    write: (tx) => tx.$executeRawUnsafe(`INSERT INTO ${schema}.business VALUES (1)`),
    async close() {
      await prisma.$disconnect()
      await close()
    },
  })
  return { schema, prisma, ours: contender }
}
