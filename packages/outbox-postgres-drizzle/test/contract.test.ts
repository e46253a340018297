import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import { OutboxEventBus } from 'outbox-core'
import { outboxContract, until } from 'outbox-core/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { partOf, postgresBackend, rawClient } from '../../../test/postgres-backend.ts'
import { serviceRole } from '../../../test/postgres-role.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { PostgresDrizzleOutbox } from '../src/index.ts'
import { nodePostgres, pglite, postgresJs } from './clients.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  const raw = () => rawClient(url)
  const role = serviceRole(url)
  outboxContract(
    postgresBackend('Drizzle on node-postgres', raw, (name) => nodePostgres(role.url, name), { role }),
  )
  outboxContract(
    postgresBackend('Drizzle on postgres.js', raw, (name) => postgresJs(role.url, name), { role }),
  )
})

describe('in this process', () => {
  let lite: PGlite
  // Starting it keeps this thread busy for long: no test's time may run meanwhile.
  beforeAll(async () => {
    lite = await PGlite.create()
  })
  afterAll(() => lite.close())
  const raw = async () => ({
    query: (text: string, parameters?: unknown[]) => lite.query(text, parameters),
    end: async () => {},
  })
  outboxContract(postgresBackend('Drizzle on PGlite', raw, () => pglite(lite), { singleClient: true }))

  test('a statement that failed in a part of a transaction on PGlite leaves the rest of it', async () => {
    const db = drizzle(lite)
    const outbox = new PostgresDrizzleOutbox(db, { tables: { events: 'parts', payloads: 'parts_store' } })
    await outbox.initialize()
    const bus = new OutboxEventBus(outbox)
    await outbox.transaction(async (tx) => {
      await bus.emit('before', 1)
      const failing = partOf(outbox.storage, tx, async () => {
        await bus.emit('inside', 1)
        await tx.execute('SELECT 1 / 0')
      })
      await expect(failing).rejects.toThrow()
      await bus.emit('after', 1)
    })
    const { rows } = await lite.query('SELECT type FROM parts ORDER BY seq')
    expect(rows).toEqual([{ type: 'before' }, { type: 'after' }])
  })

  test('is woken through LISTEN on PGlite, whatever the case of its names', async () => {
    for (const tables of [{}, { events: 'Own_Events', payloads: 'Own_Store' }]) {
      const outbox = new PostgresDrizzleOutbox(drizzle(lite), { tables, listener: lite, logger: false })
      await outbox.initialize()
      let woken = 0
      const end = await outbox.storage.listen?.(() => woken++)
      await outbox.storage.announce?.()
      await until(() => woken === 1)
      await end?.()
      const listening = async () => (await lite.query('SELECT pg_listening_channels()')).rows.length
      await until(async () => (await listening()) === 0)
    }
  })
})
