import type { LeasedEvent, NewEvent, Storage } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { appending, newEvent, settling, takeDue } from '../packages/outbox-core/src/testing/harness.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

const LEASE_MS = 60_000

/**
 * Order within a key on every client of a Postgres server, beside the contract: what it costs, and what it leaves behind.
 *
 * @param repeatableRead the client's own options for a transaction of that isolation
 */
export function postgresKeys<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
  repeatableRead: TxOptions,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)
    const keysLeft = () => place.count('outbox_events_keys')

    test('a key costs no statement more to emit, to settle, to go on; to take what waits behind, one for a lease', async () => {
      const { client, outbox } = await place.initialized()
      const { storage } = outbox
      const cost = async (work: () => Promise<unknown>): Promise<number> => {
        const before = client.statements()
        await work()
        return client.statements() - before
      }
      expect(await cost(() => storage.write([appending(keyed('1'), keyed('2'), keyed('x', 'x'))]))).toBe(1)
      await outbox.transaction(async (tx) => {
        expect(await cost(() => storage.write([appending(keyed('3'))], tx))).toBe(1)
      })
      const lease = (behind: number) =>
        storage.lease({
          limit: 1,
          leaseMs: LEASE_MS,
          addresses: [{ address: 'test.event', limit: 1 }],
          behind,
        })
      await storage.write([appending(newEvent({ id: 'free', due: { at: Date.now() - 60_000 } }))])
      expect(await cost(() => lease(10))).toBe(1)
      const before = client.statements()
      const [first] = await lease(2)
      expect(client.statements() - before).toBe(2)
      expect(first?.behind?.map(({ id }) => id)).toEqual(['2', '3'])
      const heir = keyed('heir', 'k', { inPlace: true })
      expect(await cost(() => settle(storage, first, [heir, keyed('4')]))).toBe(1)
      expect(await cost(() => storage.advance?.(['k', 'x']) ?? Promise.resolve())).toBe(1)
      expect(await cost(() => storage.advance?.() ?? Promise.resolve())).toBe(1)
      expect(await drained(storage, 'k')).toEqual(['heir', '2', '3', '4'])
    })

    test('a key that has no event any more leaves nothing behind, nor does what was not stored', async () => {
      const { outbox } = await place.initialized()
      const { storage } = outbox
      const chosen = keyed('chosen', 'k', { fingerprint: 'f' })
      await storage.write([appending(chosen)])
      expect(await drained(storage, 'k', 3_600_000)).toEqual(['chosen'])
      expect(await keysLeft()).toBe(0)
      expect(await storage.write([appending(chosen)])).toEqual([{ status: 'duplicate', fingerprint: 'f' }])
      const lost = { kind: 'complete', id: 'none', attempt: 1, key: 'k', keepMs: 0 } as const
      expect(await storage.write([settling(lost, { append: [keyed('1')] })])).toEqual([{ status: 'lost' }])
      const failing = outbox.transaction(async (tx) => {
        await storage.write([appending(keyed('2'))], tx)
        throw new Error('rolled back')
      })
      await expect(failing).rejects.toThrow('rolled back')
      expect(await keysLeft()).toBe(0)
    })

    test('what takes a place takes it as a whole, however deep, and before all that came later', async () => {
      const { storage } = (await place.initialized()).outbox
      await storage.write([appending(keyed('1'), keyed('2'))])
      const heirs = (...ids: string[]) => ids.map((id) => keyed(id, 'k', { inPlace: true }))
      for (const ids of [['a', 'b', 'c'], ['a1', 'a2'], ['a1x'], ['a1x1', 'a1x2']]) {
        const [first] = await takeDue(storage, 10, LEASE_MS)
        await settle(storage, first, heirs(...ids))
      }
      await storage.write([appending(keyed('3'))])
      expect(await drained(storage, 'k')).toEqual(['a1x1', 'a1x2', 'a2', 'b', 'c', '2', '3'])
      expect(await keysLeft()).toBe(0)
    })

    test('whoever writes behind an open settlement is first once that is committed, and second when it is rolled back', async () => {
      const { outbox } = await place.initialized()
      const { storage } = outbox
      for (const ends of ['committed', 'rolled back']) {
        await storage.write([appending(keyed(`first ${ends}`))])
        const [first] = await takeDue(storage, 1, LEASE_MS)
        let writing: Promise<unknown> | undefined
        const settled = outbox.transaction(async (tx) => {
          await storage.write([settling(completing(first))], tx)
          writing = storage.write([appending(keyed(`second ${ends}`))])
          await waiting(1)
          if (ends === 'rolled back') throw new Error(ends)
        })
        await settled.catch(() => {})
        await writing
        const stats = ends === 'committed' ? { due: 1, blocked: 0 } : { due: 0, blocked: 1 }
        expect(await storage.stats()).toMatchObject(stats)
        if (ends === 'rolled back') await settle(storage, first)
        expect(await drained(storage, 'k')).toEqual([`second ${ends}`])
      }
    })

    test('a transaction with a snapshot of its own that meets another one in a key is run again', async () => {
      const { outbox } = await place.initialized()
      const { storage } = outbox
      await storage.write([appending(keyed('1'))])
      let runs = 0
      await outbox.transaction(async (tx) => {
        runs++
        await storage.getPayload('none', tx)
        if (runs === 1) await storage.write([appending(keyed('2'))])
        await storage.write([appending(keyed('3'))], tx)
      }, repeatableRead)
      expect(runs).toBe(2)
      expect(await drained(storage, 'k')).toEqual(['1', '2', '3'])
    })

    test('the net goes on where a process has ended before it could ask, key by key', async () => {
      const { storage } = (await place.initialized()).outbox
      await place.raw.query(
        `INSERT INTO ${place.schema}.outbox_events (id, type, body, headers, created_at, visible_at, state, key, place)
        SELECT 'event-' || n || '-' || m, 'a', '1', '{}', now(), now(), 4, 'key-' || n, ARRAY[m]
        FROM generate_series(1, 1500) AS n, generate_series(1, 2) AS m`,
      )
      await place.raw.query(
        `INSERT INTO ${place.schema}.outbox_events_keys SELECT 'key-' || n, 2 FROM generate_series(1, 2500) AS n`,
      )
      const found: number[] = []
      for (let n = 0; n < 4; n++) found.push((await storage.advance?.())?.events ?? 0)
      expect(found.reduce((sum, events) => sum + events)).toBe(1_500)
      expect(found.slice(0, 2)).not.toContain(1_500)
      expect(await storage.stats()).toMatchObject({ due: 1_500, blocked: 1_500 })
      expect(await keysLeft()).toBe(1_500)
    })

    /** Until so many sessions of the place wait for a lock. */
    const waiting = async (count: number): Promise<void> => {
      for (;;) {
        const { rows } = await place.raw.query(
          "SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'",
          [place.schema],
        )
        if (rows.length === count) return
      }
    }
  })
}

function keyed(id: string, key = 'k', changes: Partial<NewEvent> = {}): NewEvent {
  return newEvent({ id, key, ...changes })
}

function completing({ id, attempt, key }: LeasedEvent = NONE, keepMs = 0) {
  return { kind: 'complete', id, attempt, key, keepMs } as const
}

const NONE = { id: 'none', attempt: 0, key: null } as LeasedEvent

async function settle<Tx, O>(
  storage: Storage<Tx, O>,
  event: LeasedEvent | undefined,
  append: readonly NewEvent[] = [],
  keepMs = 0,
): Promise<void> {
  const results = await storage.write([settling(completing(event, keepMs), { append })])
  expect(results).toEqual([{ status: 'applied' }])
}

/** Takes and completes whatever there is of a key, in order. */
async function drained<Tx, O>(storage: Storage<Tx, O>, key: string, keepMs = 0): Promise<string[]> {
  const order: string[] = []
  for (;;) {
    const [event] = (await takeDue(storage, 10, LEASE_MS)).filter((taken) => taken.key === key)
    if (!event) return order
    order.push(event.id)
    await settle(storage, event, [], keepMs)
  }
}
