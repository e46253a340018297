import { randomUUID } from 'node:crypto'
import { PrismaPg } from '@prisma/adapter-pg'
import { OutboxEventBus } from 'outbox-core'
import { postgresMigrations } from 'outbox-core/sql'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { catalog, tuning } from '../../../test/postgres-catalog.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { appending, newEvent } from '../../outbox-core/src/testing/harness.ts'
import { outboxMigrationSql, outboxModels } from '../src/index.ts'
import { connect, generateClient, generatedFolder } from './prisma.ts'

const url = serverUrl()
const PrismaClient = await generateClient(generatedFolder('schema'))

/** What the models say about columns, in Postgres's words. */
function columnsOf(models: string): object[] {
  const types: Record<string, string> = {
    String: 'text',
    BigInt: 'bigint',
    Int: 'integer',
    Bytes: 'bytea',
    'DateTime @db.Timestamptz(6)': 'timestamp with time zone',
    'Int @db.SmallInt': 'smallint',
  }
  return [...models.matchAll(/model \w+ \{(.*?)\n\}/gs)].flatMap(([, body = '']) => {
    const table = body.match(/@@map\("(\w+)"\)/)?.[1]
    return [...body.matchAll(/^ {2}(\w+) +(\w+)(\?)?(.*)$/gm)].map(([, name, type, optional, rest = '']) => {
      const native = rest.match(/@db\.\S+/)?.[0]
      const column = rest.match(/@map\("(\w+)"\)/)?.[1] ?? name
      const key = native ? `${type} ${native}` : `${type}`
      // Prisma's lists have no `?`: null is an empty one.
      const isList = rest.startsWith('[]')
      const nullable = optional || isList ? 'YES' : 'NO'
      return { table, column, type: isList ? 'ARRAY' : (types[key] ?? key), nullable }
    })
  })
}

test('refuses names that are no identifiers', () => {
  for (const make of [outboxModels, outboxMigrationSql]) {
    expect(() => make({ schema: 'a b' })).toThrowError(/option "schema" is/)
  }
})

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  const raw = new pg.Client(url)
  const [byMigration, byUs] = [1, 2].map(() => `prisma_${randomUUID().slice(0, 8)}`) as [string, string]
  beforeAll(async () => {
    await raw.connect()
    await raw.query(`CREATE SCHEMA ${byMigration}; CREATE SCHEMA ${byUs}`)
  })
  afterAll(async () => {
    await raw.query(`DROP SCHEMA ${byMigration} CASCADE; DROP SCHEMA ${byUs} CASCADE`)
    await raw.end()
  })

  test('the migration’s SQL creates what initialize creates, which then has nothing left to add', async () => {
    await raw.query(outboxMigrationSql({ schema: byMigration }))
    const client = await connect(PrismaClient, url, byUs, 1)
    try {
      await client.outbox({ schema: byUs }).initialize()
      const outbox = client.outbox({ schema: byMigration, logger: false })
      await new OutboxEventBus(outbox).emit('before', 1)
      await outbox.initialize()
      expect(await catalog(raw, byMigration)).toEqual(await catalog(raw, byUs))
      expect(await tuning(raw, byMigration)).toEqual(await tuning(raw, byUs))
    } finally {
      await client.close()
    }
  })

  test('the models name every column with its type, and read what the outbox writes', async () => {
    const client = await connect(PrismaClient, url, byUs, 1)
    const outbox = client.outbox({ schema: byUs, logger: false })
    await outbox.initialize()
    const { rows } = await raw.query(
      `SELECT table_name AS "table", column_name AS "column", data_type AS type, is_nullable AS nullable
       FROM information_schema.columns WHERE table_schema = $1`,
      [byUs],
    )
    const byName = (a: object, b: object) => JSON.stringify(a).localeCompare(JSON.stringify(b))
    expect(columnsOf(outboxModels()).sort(byName)).toEqual(rows.sort(byName))
    const claim = { id: 'claim', data: Uint8Array.of(1, 2, 255), expires: { inMs: 60_000 } }
    await outbox.storage.write([{ append: [], put: [claim], remove: [] }])
    await new OutboxEventBus(outbox).emit('read', { n: 1 })
    await outbox.storage.write([appending(newEvent({ key: 'k' }))])
    const prisma = new PrismaClient({
      adapter: new PrismaPg({ connectionString: url, max: 1 }, { schema: byUs }),
    })
    const models = prisma as unknown as Record<string, { findMany(): Promise<object[]> }>
    expect(await models['outboxEvent']?.findMany()).toMatchObject([
      { type: 'read', body: '{"n":1}', state: 0, attempt: 0, address: null, key: null, place: [] },
      { key: 'k', place: [1n] },
    ])
    expect(await models['outboxKey']?.findMany()).toEqual([{ key: 'k', version: 1n }])
    expect(await models['sagaStoreEntry']?.findMany()).toMatchObject([
      { id: 'claim', data: Uint8Array.of(1, 2, 255) },
    ])
    expect(await models['outboxMigration']?.findMany()).toMatchObject(
      postgresMigrations().map((_, index) => ({ version: index + 1 })),
    )
    await Promise.all([prisma.$disconnect(), client.close()])
  })
})
