import { OutboxEventBus } from 'outbox-core'
import { until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { FaultyNetwork } from './faults/proxy.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'
import { startPgBouncer } from './servers/pgbouncer.ts'

/** What a worker sends: each has arrived, and been done, when its answer is lost. */
const OF_A_WORKER = {
  lease: /\bORDER BY due_at, leased\.seq\b/,
  settlement: /\bDELETE FROM\b[^;]*\battempt\b/,
  heartbeat: /\bextended AS\b/,
} as const

/**
 * What becomes of requests that have arrived when their answers are lost, whatever the client, and a pooler, make of that.
 * Not for postgres.js: it asks for the types of a statement's parameters before it sends the statement itself.
 */
export function postgresRepeats<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)

    for (const via of ['directly', 'behind PgBouncer']) {
      const network = async (): Promise<FaultyNetwork | undefined> => {
        const pooler = via === 'directly' ? undefined : await startPgBouncer(url)
        if (via !== 'directly' && !pooler) return undefined
        if (pooler) place.closing(() => pooler.stop())
        const started = await FaultyNetwork.start(pooler?.url ?? url)
        place.closing(() => started.close())
        return started
      }
      const opened = async (own: FaultyNetwork, max: number) =>
        (await place.open(max, own.url)).outbox({ schema: place.schema, logger: false })

      test(`an emit that has arrived is stored once, ${via}`, async (context) => {
        await place.initialized()
        const own = await network()
        if (!own) return context.skip('pgbouncer is not installed')
        const outbox = await opened(own, 1)
        const bus = new OutboxEventBus(outbox)
        const many = [1, 2].map((payload) => ({ type: 'a', payload }))
        const emits = [
          { emit: () => bus.emit('a', 1), events: 1 },
          { emit: () => bus.emitMany(many), events: 2 },
          { emit: () => outbox.transaction(() => bus.emit('a', 1)), events: 1, command: /\bcommit\b/i },
        ]
        let stored = 0
        for (const { emit, events, command = /\bINSERT INTO\b/ } of emits) {
          const cut = own.cutAnswer(command)
          await expect(emit()).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
          await cut
          stored += events
          await until(async () => (await place.count('outbox_events')) === stored)
        }
      })

      test(`what a worker has asked for is done once, ${via}`, async (context) => {
        await place.initialized()
        const own = await network()
        if (!own) return context.skip('pgbouncer is not installed')
        const bus = new OutboxEventBus(await opened(own, 4), {
          ...{ lease: 1_500, heartbeat: 100, concurrency: 4, batchSize: 4, poll: { min: 20, max: 50 } },
        })
        const attempts = new Map<unknown, number[]>()
        bus.on('a', async ({ payload, attempt }) => {
          attempts.set(payload, [...(attempts.get(payload) ?? []), attempt])
          await new Promise((resolve) => setTimeout(resolve, 300))
        })
        await place.started(bus)
        const emitter = new OutboxEventBus(
          (await place.open(1)).outbox({ schema: place.schema, logger: false }),
        )
        for (const [what, command] of Object.entries(OF_A_WORKER)) {
          attempts.clear()
          const cut = own.cutAnswer(command)
          const events = Array.from({ length: 8 }, (_, payload) => ({ type: 'a', payload }))
          await emitter.emitMany(events)
          await cut
          await until(async () => (await place.count('outbox_events')) === 0, 20_000)
          expect(attempts.size, what).toBe(8)
          // A settlement has been done, and a lease was not begun: nothing is handled twice but what lost its lease.
          if (what !== 'heartbeat') expect([...attempts.values()].flat(), what).toHaveLength(8)
        }
        expect((await emitter.outbox.stats()).dead).toBe(0)
      }, 60_000)
    }
  })
}
