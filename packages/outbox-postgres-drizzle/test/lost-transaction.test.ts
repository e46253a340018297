import { OutboxEventBus } from 'outbox-core'
import { sleep, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { FaultyNetwork } from '../../../test/faults/proxy.ts'
import { PostgresPlace } from '../../../test/postgres-place.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { postgresJs } from './clients.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('a transaction on postgres.js whose connection is lost', () => {
  if (url === undefined) return
  const place = new PostgresPlace(url, postgresJs)

  test.each([1, 4])('writes nothing more, on none of %d connections', async (max) => {
    const { client, outbox } = await place.initialized(max)
    await place.raw.query(`CREATE TABLE ${place.schema}.business (key text)`)
    const insert = `INSERT INTO ${place.schema}.business VALUES ($1)`
    const bus = new OutboxEventBus(outbox)
    const refused: string[] = []
    const note = (error: Error & { cause?: Error }): void =>
      void refused.push(error.cause?.name ?? error.name)
    const losing = outbox.transaction(async (tx) => {
      await client.execute(tx, insert, 'before')
      await bus.emit('before', 1)
      // Others are waiting for the pool: they make it connect again.
      const others = Array.from({ length: 3 }, () => outbox.stats().catch(() => {}))
      await place.cutConnections()
      await Promise.race([Promise.all(others), sleep(500)])
      await Promise.resolve(client.execute(tx, insert, 'after')).catch(note)
      await bus.emit('after', 1).catch(note)
      // Its savepoints are of no use either.
      await outbox.transaction(() => bus.emit('nested', 1)).catch(note)
    })
    // Known: it was given up before it could be committed.
    await expect(losing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    expect(refused).toHaveLength(3)
    await until(() =>
      outbox.stats().then(
        () => true,
        () => false,
      ),
    )
    expect([await place.count('business'), await place.count('outbox_events')]).toEqual([0, 0])
  })

  // postgres.js never answers what is sent between a socket's error and its end, nor anything after it.
  test.each(['in a transaction', 'outside of one'])(
    'answers again after a reset %s',
    async (where) => {
      const network = await FaultyNetwork.start(url)
      place.closing(() => network.close())
      await place.initialized(1)
      const client = await place.open(1, network.url)
      const outbox = client.outbox({ schema: place.schema, logger: false })
      const bus = new OutboxEventBus(outbox)
      for (let round = 0; round < 10; round++) {
        const cut = network.cutAnswer(/INSERT INTO/)
        const emitting =
          where === 'in a transaction'
            ? outbox.transaction(() => Promise.all([bus.emit('lost', round), bus.emit('lost', round)]))
            : bus.emit('lost', round).catch(() => outbox.stats())
        const lost = emitting.then(
          () => 'went on',
          (error) => error.code,
        )
        await cut
        expect(['went on', 'OUTBOX_STORAGE', 'OUTBOX_UNKNOWN_OUTCOME']).toContain(await lost)
        await outbox.transaction(() => bus.emit('after', round))
        expect((await outbox.stats()).due).toBeGreaterThan(round)
      }
    },
    30_000,
  )
})
