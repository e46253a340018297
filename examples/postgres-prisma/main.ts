/**
 * Prisma on adapter-pg: npx prisma generate --schema examples/postgres-prisma/schema.prisma, then
 * DATABASE_URL=postgres://… npm run example postgres-prisma
 */
import { PrismaPg } from '@prisma/adapter-pg'
import { PostgresPrismaOutbox, type PrismaClientLike, type PrismaTransaction } from 'outbox-postgres-prisma'
import { runOrders } from '../orders.ts'

interface Transaction extends PrismaTransaction {
  readonly order: { create(input: { data: { id: string } }): Promise<unknown> }
}

// In a service: import { PrismaClient } from './generated/client.ts'
const generated = './generated/client.ts'
const {
  PrismaClient,
}: {
  PrismaClient: new (options: object) => PrismaClientLike<Transaction> & { $disconnect(): Promise<void> }
} = await import(generated)

const adapter = new PrismaPg({ connectionString: process.env['DATABASE_URL'] ?? '' })
const prisma = new PrismaClient({ adapter }) // your own client
await prisma.$executeRawUnsafe('CREATE SCHEMA IF NOT EXISTS prisma_example')
await prisma.$executeRawUnsafe('CREATE TABLE IF NOT EXISTS prisma_example.orders (id text PRIMARY KEY)')

const outbox = new PostgresPrismaOutbox(prisma, { schema: 'prisma_example' })
await runOrders(outbox, (tx, id) => tx.order.create({ data: { id } }))

await prisma.$executeRawUnsafe('DROP SCHEMA prisma_example CASCADE')
await prisma.$disconnect()
