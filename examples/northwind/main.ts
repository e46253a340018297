/**
 * The Northwind order book as sagas: every order is a routing slip that reserves its lines, charges the customer, books
 * a shipper and confirms; orders that can't be served are compensated. Stop it whenever you like (Ctrl-C, kill -9)
 * and start it again: it goes on where it was.
 *
 *   npm run demo -- [--db FILE] [--pace MILLISECONDS]
 */
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import Database from 'better-sqlite3'
import cliProgress from 'cli-progress'
import { OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { activitiesOn } from './activities.ts'
import { type Order, orders, totalCents } from './data.ts'
import { reconcile } from './reconcile.ts'
import { createShop } from './shop.ts'
import { Tally } from './tally.ts'

const CLAIM_ABOVE_BYTES = 2_048

const { values } = parseArgs({
  options: {
    db: { type: 'string', default: fileURLToPath(new URL('northwind.db', import.meta.url)) },
    pace: { type: 'string', default: '1' },
  },
})

const tally = new Tally(CLAIM_ABOVE_BYTES)
const db = new Database(values.db)
db.pragma('journal_mode = WAL')
const outbox = new SqliteBetterSqlite3Outbox(db, { logger: tally.logger })
// Short, so that a start after kill -9 need not wait long for what the dead process had leased.
const bus = new OutboxEventBus<SagaEvents>(outbox, { lease: '2s' }).use(tally)
const { reserveLine, chargeCustomer, bookShipper, confirmOrder } = activitiesOn(outbox, Number(values.pace))
const engine = new SagaEngine({
  bus,
  store: outbox.sagaStore('7d'),
  activities: [reserveLine, chargeCustomer, bookShipper, confirmOrder],
  claims: { threshold: CLAIM_ABOVE_BYTES },
})

const number = (sql: string, ...parameters: unknown[]): number =>
  db
    .prepare<unknown[], number>(sql)
    .pluck()
    .get(...parameters) ?? 0
const count = (status: string): number => number('SELECT count(*) FROM orders WHERE status = ?', status)
const ended = (): number => count('confirmed') + count('cancelled')

bus.on('saga.compensated', async ({ payload: { slipId, fault } }) => {
  await outbox.transaction((tx) => {
    tx.prepare("UPDATE orders SET status = 'cancelled', reason = ? WHERE id = ?").run(
      fault.message,
      orderId(slipId),
    )
  })
})

await outbox.initialize()
createShop(db)
const before = ended()
console.log(
  before > 0
    ? `Going on after ${before} of ${orders.length} orders.`
    : `Northwind's ${orders.length} orders, each a saga, against the stock of a single day: most can't be served, and are undone.`,
)

const bar = new cliProgress.SingleBar(
  { format: 'orders {bar} {value}/{total}' },
  cliProgress.Presets.shades_classic,
)
bar.start(orders.length, before)
const refresh = setInterval(() => bar.update(ended()), 50)
const started = performance.now()

process.once('SIGINT', stop)
process.once('SIGTERM', stop)

await bus.start()
for (const order of orders) await accept(order)
while (ended() < orders.length || (await unsettled()) > 0)
  await new Promise((resolve) => setTimeout(resolve, 20))
await bus.stop()
const seconds = (performance.now() - started) / 1000
clearInterval(refresh)
bar.update(ended())
bar.stop()

report()
db.close()

/** Accepts an order and starts its saga in one transaction: never one without the other. */
async function accept(order: Order): Promise<void> {
  await outbox.transaction(async (tx) => {
    const { changes } = tx.prepare("INSERT OR IGNORE INTO orders VALUES (?, 'accepted', NULL)").run(order.Id)
    if (changes === 1) await engine.emit(slipOf(order))
  })
}

// Another process on the file may still hold some, or one that was killed.
async function unsettled(): Promise<number> {
  const { due, leased } = await outbox.stats()
  return due + leased
}

function slipOf(order: Order) {
  const orderId = order.Id
  let slip = routingSlip('order', `order-${orderId}`).variables({ order })
  for (const { ProductId: productId, Quantity: quantity } of order.lines) {
    slip = slip.add(reserveLine, { orderId, productId, quantity })
  }
  return slip
    .add(chargeCustomer, { orderId, cents: totalCents(order) })
    .add(bookShipper, { orderId, shipperId: order.ShipperId })
    .add(confirmOrder, { orderId })
}

function orderId(slipId: string): number {
  return Number(slipId.slice('order-'.length))
}

async function stop(): Promise<void> {
  await bus.stop({ timeout: '2s' })
  bar.stop()
  console.log(`\nStopped after ${ended()} of ${orders.length} orders. Start again to go on.`)
  process.exit(130)
}

function report(): void {
  const reasons = db
    .prepare(
      "SELECT reason, count(*) AS orders FROM orders WHERE status = 'cancelled' GROUP BY 1 ORDER BY 2 DESC",
    )
    .all() as { reason: string; orders: number }[]
  console.table({
    completed: count('confirmed'),
    ...Object.fromEntries(reasons.map(({ reason, orders }) => [`compensated: ${reason}`, orders])),
    'reservations taken back': number('SELECT count(*) FROM movements WHERE quantity > 0'),
    'events in this run': tally.events,
    'payloads in this run': tally.payloads,
    'payload bytes, raw': tally.rawBytes,
    'payload bytes, stored': tally.storedBytes,
    'events per second': Math.round(tally.events / seconds),
  })
  const wrong = reconcile(db)
  if (wrong.length > 0) {
    console.error(`RECONCILIATION FAILED:\n${wrong.slice(0, 20).join('\n')}`)
    process.exitCode = 1
    return
  }
  console.log(
    'Reconciled: every unit of stock, every payment and every shipment is accounted for, and nothing is left over.',
  )
  for (const suffix of ['', '-wal', '-shm']) rmSync(values.db + suffix, { force: true })
}
