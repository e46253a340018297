import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { PrismaPg } from '@prisma/adapter-pg'
import { OutboxEventBus } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { postgresFaults } from '../../../test/postgres-faults.ts'
import { postgresKeys } from '../../../test/postgres-keys.ts'
import { postgresParts } from '../../../test/postgres-parts.ts'
import { postgresRefusals } from '../../../test/postgres-refusals.ts'
import { postgresRepeats } from '../../../test/postgres-repeats.ts'
import { postgresSuite } from '../../../test/postgres-suite.ts'
import { postgresUpgrades } from '../../../test/postgres-upgrades.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { PostgresPrismaOutbox } from '../src/index.ts'
import { connect, generateClient, generatedFolder, type TestPrisma } from './prisma.ts'

const url = serverUrl()
const PrismaClient = await generateClient(generatedFolder('postgres'))

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  postgresSuite('Prisma on adapter-pg', url, (...args) => connect(PrismaClient, ...args))
  postgresFaults('Prisma on adapter-pg, faults', url, (...args) => connect(PrismaClient, ...args))
  postgresRepeats('Prisma on adapter-pg, answers lost', url, (...args) => connect(PrismaClient, ...args))
  postgresKeys('Prisma on adapter-pg, keys', url, (...args) => connect(PrismaClient, ...args), {
    isolationLevel: 'RepeatableRead',
  })
  postgresParts('Prisma on adapter-pg, parts', url, (...args) => connect(PrismaClient, ...args))
  postgresRefusals('Prisma on adapter-pg, refusals', url, (...args) => connect(PrismaClient, ...args))
  postgresUpgrades('Prisma on adapter-pg, upgrades', url, (...args) => connect(PrismaClient, ...args))

  describe('Prisma', () => {
    const schema = `prisma_${randomUUID().slice(0, 8)}`
    const raw = new pg.Client(url)
    let client: Awaited<ReturnType<typeof connect>>
    let outbox: PostgresPrismaOutbox<never>
    beforeAll(async () => {
      await raw.connect()
      await raw.query(`CREATE SCHEMA ${schema}`)
      client = await connect(PrismaClient, url, schema, 2)
      outbox = new PostgresPrismaOutbox(client.prisma, { schema, logger: false }) as never
      await outbox.initialize()
    })
    afterAll(async () => {
      await client.close()
      await raw.query(`DROP SCHEMA ${schema} CASCADE`)
      await raw.end()
    })
    const events = async (): Promise<string[]> =>
      (await raw.query(`SELECT type FROM ${schema}.outbox_events ORDER BY seq`)).rows.map(({ type }) => type)

    test('refuses what is no Prisma client for Postgres', async () => {
      const construct = (prisma: unknown) => () => new PostgresPrismaOutbox(prisma as never)
      const wrong = expect.objectContaining({ code: 'OUTBOX_CONFIGURATION', option: 'prisma' })
      for (const value of [undefined, null, {}, raw, { ...methods, _activeProvider: 'mysql' }]) {
        expect(construct(value)).toThrowError(wrong)
      }
      expect(construct(methods)).not.toThrow()
      await client.prisma.$transaction(async (tx) => {
        expect(construct(tx)).toThrowError(wrong)
      })
    })

    test('takes only transactions of its own client', async () => {
      const bus = new OutboxEventBus(outbox)
      const emit = () => bus.emit('own', 1)
      const { prisma } = client
      await expect(outbox.enlist(prisma as never, emit)).rejects.toMatchObject({
        code: 'OUTBOX_TRANSACTION_MISSING',
      })
      await expect(outbox.enlist({} as never, emit)).rejects.toMatchObject({
        code: 'OUTBOX_FOREIGN_TRANSACTION',
      })
      const other = await connect(PrismaClient, url, schema, 1)
      await other.prisma.$transaction(async (tx) => {
        await expect(outbox.enlist(tx as never, emit)).rejects.toMatchObject({
          code: 'OUTBOX_FOREIGN_TRANSACTION',
        })
      })
      await other.close()
      await prisma.$transaction((tx) => outbox.enlist(tx as never, emit))
      expect(await events()).toEqual(['own'])
      const extended = prisma.$extends({ name: 'extended' })
      await extended.$transaction((tx) => outbox.enlist(tx as never, emit))
      const onExtended = new PostgresPrismaOutbox(extended, { schema, logger: false })
      const extendedBus = new OutboxEventBus(onExtended)
      await onExtended.transaction(() => extendedBus.emit('extended', 1))
      await prisma.$transaction((tx) => onExtended.enlist(tx, () => extendedBus.emit('extended', 2)))
      expect(await events()).toEqual(['own', 'own', 'extended', 'extended'])
    })

    test('works on a client of the older generator as well', async () => {
      const Older = await generateClient(generatedFolder('older'), 'prisma-client-js')
      expect(Older).not.toBe(PrismaClient)
      const older = await connect(Older, url, schema, 2)
      try {
        const onOlder = older.outbox({ schema, tables: { events: 'older' }, logger: false })
        await onOlder.initialize()
        const bus = new OutboxEventBus(onOlder)
        await onOlder.transaction(async () => {
          await onOlder.sagaStore('1d').put('claim', Uint8Array.of(1))
          await bus.emit('a', 1)
        })
        await older.transaction((tx) => onOlder.enlist(tx, async () => void (await bus.emit('b', 2))))
        expect(await takeDue(onOlder.storage, 10, 1_000)).toMatchObject([{ type: 'a' }, { type: 'b' }])
        expect([...((await onOlder.sagaStore('1d').get('claim')) ?? [])]).toEqual([1])
        await client.prisma.$transaction(async (tx) => {
          await expect(onOlder.enlist(tx, () => {})).rejects.toMatchObject({
            code: 'OUTBOX_FOREIGN_TRANSACTION',
          })
        })
      } finally {
        await older.close()
      }
    })

    test('follows the schema of the driver adapter, unless it is given another', async () => {
      const adapter = new PrismaPg({ connectionString: url, max: 1 }, { schema })
      const prisma = new PrismaClient({ adapter })
      for (const client of [prisma, prisma.$extends({ name: 'extended' })]) {
        const before = await events()
        const following = new PostgresPrismaOutbox(client, { logger: false })
        await following.initialize()
        await new OutboxEventBus(following).emit('followed', 1)
        expect(await events()).toEqual([...before, 'followed'])
      }
      const elsewhere = new PostgresPrismaOutbox(prisma, { schema: 'none_such', logger: false })
      await expect(elsewhere.stats()).rejects.toMatchObject({ code: 'OUTBOX_NOT_INITIALIZED' })
      await prisma.$disconnect()
    })

    test('an event emitted in a savepoint goes with it', async () => {
      const bus = new OutboxEventBus(outbox)
      const before = await events()
      await client.prisma.$transaction(async (tx) => {
        const { $transaction } = tx as unknown as TestPrisma
        const nested = $transaction.bind(tx) as TestPrisma['$transaction']
        await nested((savepoint) => outbox.enlist(savepoint as never, () => bus.emit('kept', 1)))
        const undone = nested(async (savepoint) => {
          await outbox.enlist(savepoint as never, () => bus.emit('undone', 1))
          throw new Error('back to the savepoint')
        })
        await expect(undone).rejects.toThrow('back to the savepoint')
        await outbox.enlist(tx as never, () => bus.emit('after', 1))
      })
      expect(await events()).toEqual([...before, 'kept', 'after'])
    })

    test('hands Prisma’s options through; what takes too long is a typed timeout, and nothing stays', async () => {
      const bus = new OutboxEventBus(outbox)
      const before = await events()
      const timedOut = { code: 'OUTBOX_TRANSACTION_TIMEOUT' }
      const slow = (work: () => Promise<unknown>) =>
        outbox.transaction(
          async () => {
            await bus.emit('slow', 1)
            await sleep(150)
            await work()
          },
          { timeout: 100 },
        )
      await expect(slow(() => bus.emit('late', 1))).rejects.toMatchObject(timedOut)
      await expect(slow(() => Promise.resolve())).rejects.toMatchObject(timedOut)
      const holding = Promise.all([1, 2].map(() => client.prisma.$transaction(() => sleep(1_000))))
      await sleep(50)
      await expect(outbox.transaction(() => bus.emit('none', 1), { maxWait: 50 })).rejects.toMatchObject(
        timedOut,
      )
      await holding
      expect(await events()).toEqual(before)
      const level = await outbox.transaction(
        (tx: { $queryRawUnsafe(text: string): Promise<unknown> }) =>
          tx.$queryRawUnsafe("SELECT current_setting('transaction_isolation') AS level"),
        { isolationLevel: 'Serializable' },
      )
      expect(level).toEqual([{ level: 'serializable' }])
    })

    test('says that a transaction has ended, even of one it never saw', async () => {
      const bus = new OutboxEventBus(outbox)
      let ended: unknown
      await client.prisma.$transaction(async (tx) => {
        ended = tx
      })
      await expect(bus.emit('late', 1, { transaction: ended as never })).rejects.toMatchObject({
        code: 'OUTBOX_TRANSACTION_CLOSED',
      })
    })
  })
})

const methods = {
  $queryRawUnsafe: async () => [],
  $executeRawUnsafe: async () => 0,
  $transaction: async () => {},
  $connect: async () => {},
}
