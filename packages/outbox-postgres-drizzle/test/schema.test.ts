import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OutboxEventBus } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { catalog, tuning } from '../../../test/postgres-catalog.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { outboxTables, type PostgresTableOptions } from '../src/index.ts'
import { nodePostgres } from './clients.ts'

const url = serverUrl()
const generated = fileURLToPath(new URL('generated', import.meta.url))
const drizzleKit = fileURLToPath(new URL('../../../node_modules/drizzle-kit/bin.cjs', import.meta.url))

test('refuses names that are no identifiers', () => {
  expect(() => outboxTables({ tables: { events: 'a b' } })).toThrowError(/option "tables.events" is/)
})

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  const raw = new pg.Client(url)
  const schemas: string[] = []
  beforeAll(() => raw.connect())
  afterAll(async () => {
    for (const schema of schemas) await raw.query(`DROP SCHEMA ${schema} CASCADE`)
    await raw.end()
  })
  const newName = (): string => {
    const schema = `kit_${randomUUID().slice(0, 8)}`
    schemas.push(schema)
    return schema
  }

  test.each([{}, { events: 'Own_Events', payloads: 'own_payloads', migrations: 'own_migrations' }])(
    'drizzle-kit generates from the exported tables what initialize creates: %o',
    async (tables) => {
      const [byKit, byUs] = [newName(), newName()]
      await raw.query(generate({ schema: byKit, tables }))
      await raw.query(`CREATE SCHEMA ${byUs}`)
      const client = await nodePostgres(url, byUs, 1)
      try {
        await client.outbox({ schema: byUs, tables }).initialize()
        const created = await catalog(raw, byUs)
        expect(created).toMatchObject({ columns: { length: 24 }, indexes: { length: 9 } })
        expect(await catalog(raw, byKit)).toEqual(created)
        // On tables that drizzle-kit made, initialize adds only what Drizzle can't express.
        const outbox = client.outbox({ schema: byKit, tables, logger: false })
        await new OutboxEventBus(outbox).emit('before', 1)
        await outbox.initialize()
        await outbox.initialize()
        expect(await catalog(raw, byKit)).toEqual(created)
        expect(await tuning(raw, byKit)).toEqual(await tuning(raw, byUs))
        expect(await takeDue(outbox.storage, 10, 1_000)).toMatchObject([{ type: 'before' }])
      } finally {
        await client.close()
      }
    },
  )
})

/** The SQL that drizzle-kit's own command writes for a user's schema file. */
function generate(options: PostgresTableOptions): string {
  const folder = join(generated, randomUUID())
  mkdirSync(folder, { recursive: true })
  try {
    writeFileSync(
      join(folder, 'schema.ts'),
      `import { pgSchema } from 'drizzle-orm/pg-core'
      import { outboxTables } from '../../../src/index.ts'
      export const own = pgSchema(${JSON.stringify(options.schema)})
      export const { events, payloads, keys, migrations } = outboxTables(${JSON.stringify(options)})`,
    )
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      [drizzleKit, 'generate', '--dialect', 'postgresql', '--schema', './schema.ts', '--out', './out'],
      { cwd: folder, encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '--conditions=source' } },
    )
    if (status !== 0) throw new Error(`drizzle-kit failed: ${stdout}${stderr}`)
    const [file = ''] = readdirSync(join(folder, 'out')).filter((name) => name.endsWith('.sql'))
    return readFileSync(join(folder, 'out', file), 'utf8')
  } finally {
    rmSync(folder, { recursive: true })
  }
}
