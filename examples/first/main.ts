import Database from 'better-sqlite3'
import { activity, OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'

const db = new Database(':memory:') // your own connection
db.exec('CREATE TABLE orders (id TEXT, status TEXT)')

const reserveStock = activity('reserve-stock', {
  async execute({ sku }: { sku: string }, { idempotencyKey }) {
    console.log(`reserving ${sku} under key ${idempotencyKey}`)
    return { log: { sku } }
  },
  async compensate({ sku }) {
    console.log(`releasing ${sku}`)
  },
})

const chargeCard = activity('charge-card', {
  async execute({ cents }: { cents: number }) {
    if (cents > 10_000) throw new Error('card declined')
  },
  retry: { maxAttempts: 2, delay: '10ms' },
})

const outbox = new SqliteBetterSqlite3Outbox(db)
const bus = new OutboxEventBus<SagaEvents>(outbox)
const store = outbox.sagaStore('7d')
const engine = new SagaEngine({ bus, store, activities: [reserveStock, chargeCard] })

bus.on('saga.completed', ({ payload }) => console.log(`${payload.slipId} completed`))
bus.on('saga.compensated', ({ payload }) =>
  console.log(`${payload.slipId} compensated: ${payload.fault.message}`),
)

await outbox.initialize()
await bus.start()

for (const [id, cents] of [
  ['order-1', 4_200],
  ['order-2', 42_000],
] as const) {
  await outbox.transaction(async (tx) => {
    tx.prepare('INSERT INTO orders VALUES (?, ?)').run(id, 'placed')
    await engine.emit(routingSlip('order', id).add(reserveStock, { sku: 'chai' }).add(chargeCard, { cents }))
  }) // the order, the event and its payload: all or none
}

await bus.waitFor('saga.compensated')
await bus.stop()
