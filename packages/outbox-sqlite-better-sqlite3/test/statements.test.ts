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

  test('a single emit needs no transaction of its own', async () => {
    const { outbox, during } = await recorded()
    const bus = new OutboxEventBus(outbox)
    expect(await during(() => bus.emit('a', {}))).toEqual(['INSERT INTO'])
    expect(await during(() => bus.emit('a', {}, { id: 'mine' }))).toEqual(['INSERT INTO'])
    const hundred = Array.from({ length: 100 }, () => ({ type: 'a', payload: {} }))
    expect(await during(() => bus.emitMany(hundred))).toEqual(['INSERT INTO'])
  })

  test('an idle poll is one, a batch of 100 events two to lease and one to settle', async () => {
    const { outbox, during } = await recorded()
    const { storage } = outbox
    expect(await during(() => storage.lease(100, 1_000))).toHaveLength(1)
    const bus = new OutboxEventBus(outbox)
    await bus.emitMany(Array.from({ length: 100 }, () => ({ type: 'a', payload: {} })))
    const leased = await storage.lease(0, 1_000)
    expect(leased).toEqual([])
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    const lease = await during(async () => {
      events = await storage.lease(100, 60_000)
    })
    expect(lease.map((text) => text.split(' ')[0])).toEqual(['SELECT', 'UPDATE'])
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
    expect(settle.map((text) => text.split(' ')[0])).toEqual(['DELETE'])
  })

  test('a batch of saga steps is settled by as many statements as one step', async () => {
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
    const writes = statements.filter((text) => /^(INSERT|DELETE|UPDATE|BEGIN|COMMIT)/.test(text))
    // Two rounds of: lease; begin, delete the events, insert the next ones, commit. The second only deletes.
    expect(writes.length).toBeLessThanOrEqual(10)
  })
})
