import Database from 'better-sqlite3'
import { activity, OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { SqliteBetterSqlite3Outbox } from '../src/index.ts'

/** An outbox whose every statement is kept. */
async function recorded() {
  const statements: string[] = []
  const db = new Database(':memory:', { verbose: (text) => statements.push(String(text).trim()) })
  const outbox = new SqliteBetterSqlite3Outbox(db, { logger: false })
  await outbox.initialize()
  const during = async (work: () => Promise<unknown>): Promise<string[]> => {
    statements.length = 0
    await work()
    return statements.map((text) => text.split(/\s+/).slice(0, 2).join(' '))
  }
  return { db, outbox, during }
}

const LARGE = { text: 'large '.repeat(5_000) }

describe('statements', () => {
  test('emit in a transaction adds one, engine.emit with a claim two', async () => {
    const { outbox, during } = await recorded()
    const bus = new OutboxEventBus(outbox)
    const step = activity('step', { execute: () => {} })
    const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
    const emit = await during(() => outbox.transaction(() => bus.emit('a', {})))
    expect(emit).toEqual(['BEGIN IMMEDIATE', 'INSERT INTO', 'COMMIT'])
    const slip = routingSlip('test').variables(LARGE).add(step, {})
    const start = await during(() => outbox.transaction(() => engine.emit(slip)))
    expect(start).toEqual(['BEGIN IMMEDIATE', 'INSERT INTO', 'INSERT INTO', 'COMMIT'])
  })

  test('a single emit needs no transaction of its own, a hundred one statement', async () => {
    const { outbox, during } = await recorded()
    const bus = new OutboxEventBus(outbox)
    expect(await during(() => bus.emit('a', {}))).toEqual(['INSERT INTO'])
    expect(await during(() => bus.emit('a', {}, { id: 'mine' }))).toEqual(['INSERT INTO'])
    const hundred = Array.from({ length: 100 }, () => ({ type: 'a', payload: {} }))
    expect(await during(() => bus.emitMany(hundred))).toEqual(['BEGIN IMMEDIATE', 'INSERT INTO', 'COMMIT'])
  })

  test('an idle poll is one; a batch of 100 events is leased in one transaction, and settled in one', async () => {
    const { outbox, during } = await recorded()
    const { storage } = outbox
    const lease100 = () =>
      storage.lease({ limit: 100, leaseMs: 60_000, addresses: [{ address: 'a', limit: 100 }] })
    expect(await during(lease100)).toHaveLength(1)
    const bus = new OutboxEventBus(outbox)
    await bus.emitMany(Array.from({ length: 100 }, () => ({ type: 'a', payload: {} })))
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    const lease = await during(async () => {
      events = await lease100()
    })
    expect(lease).toEqual([
      'SELECT seq',
      'BEGIN IMMEDIATE',
      ...Array(100).fill('UPDATE main."outbox_events"'),
      'COMMIT',
    ])
    const settle = await during(() =>
      storage.write(
        events.map(({ id, attempt }) => ({
          settle: { kind: 'complete', id, attempt, keepMs: 0 },
          append: [],
          put: [],
          remove: [],
        })),
      ),
    )
    expect(settle).toEqual(['BEGIN IMMEDIATE', ...Array(100).fill('DELETE FROM'), 'COMMIT'])
    expect(await during(() => storage.extend([], 1_000))).toEqual([])
  })

  test('a key costs one statement more to write, and one to settle; a run of it one for each event', async () => {
    const { outbox, during } = await recorded()
    const { storage } = outbox
    const bus = new OutboxEventBus(outbox)
    const emit = (): Promise<string> => bus.emit('a', {}, { key: 'k' })
    expect(await during(emit)).toEqual(['SELECT max(place)', 'INSERT INTO'])
    for (let n = 0; n < 9; n++) await emit()
    const lease = (behind: number) =>
      storage.lease({ ...{ limit: 100, leaseMs: 60_000, behind }, addresses: [{ address: 'a', limit: 100 }] })
    let [first] = await lease(0)
    const complete = (also: readonly string[] = []) =>
      storage.write([
        {
          settle: { ...{ kind: 'complete', keepMs: 0, also, key: 'k' }, id: first?.id ?? '', attempt: 1 },
          ...{ append: [], put: [], remove: [] },
        },
      ])
    const settling = ['DELETE FROM', 'UPDATE main."outbox_events"']
    expect(await during(() => complete())).toEqual(['BEGIN IMMEDIATE', ...settling, 'COMMIT'])
    const reading = await during(async () => {
      ;[first] = await lease(5)
    })
    expect(reading.at(-1)).toBe('SELECT seq')
    expect(reading).toHaveLength(3)
    const run = await during(() => complete(first?.behind?.map(({ id }) => id)))
    const behind = Array(5).fill('DELETE FROM')
    expect(run).toEqual([
      ...['BEGIN IMMEDIATE', 'DELETE FROM'],
      ...behind,
      ...['UPDATE main."outbox_events"', 'COMMIT'],
    ])
    expect(await storage.stats()).toMatchObject({ due: 1, blocked: 2 })
  })

  test('a batch of saga steps is settled by as many transactions as one step, and one statement for each event', async () => {
    const { outbox, during } = await recorded()
    const bus = new OutboxEventBus<SagaEvents>(outbox, {
      concurrency: 50,
      batchSize: 50,
      poll: { min: '1h', max: '1h' },
    })
    const step = activity('step', { execute: () => {}, compensate: () => {} })
    const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
    const slip = routingSlip('test').add(step, {}).add(step, {})
    for (let count = 0; count < 50; count++) await engine.emit(slip)
    const statements = await during(async () => {
      await bus.start()
      await until(async () => (await outbox.stats()).due === 0 && (await outbox.stats()).leased === 0)
      await bus.stop()
    })
    const count = (begin: string): number => statements.filter((text) => text.startsWith(begin)).length
    // Two rounds of: lease, unless the worker goes on with what it has; settle. The second only deletes.
    expect(count('COMMIT')).toBeLessThanOrEqual(4)
    expect(count('DELETE')).toBe(100)
    expect(count('INSERT')).toBeLessThanOrEqual(2)
  })
})
