import Database from 'better-sqlite3'
import {
  activity,
  activityContract,
  OutboxEventBus,
  routingSlip,
  SagaEngine,
  type SagaEvents,
} from 'outbox-core'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'

// Two services share one database and its outbox. Here they are two halves of one file; nothing but the database, the
// names of events and the contracts of activities is common to them.
interface Events extends SagaEvents {
  'order.placed': { id: string; cents: number }
  'order.changed': { id: string; status: string }
}

const db = new Database(':memory:')
const outbox = new SqliteBetterSqlite3Outbox(db)
await outbox.initialize()
const store = outbox.sagaStore('7d')

/** What the shop says of activities that run elsewhere: a name, and what it takes. */
const reserveStock = activityContract<{ sku: string }, { sku: string }>('reserve-stock')
const chargeCard = activityContract<{ cents: number }>('charge-card')

// The shop: starts slips, charges cards, and handles no event but those that it has handlers for.
const shop = new OutboxEventBus<Events>(outbox)
const sagas = new SagaEngine({
  bus: shop,
  store,
  activities: [
    reserveStock,
    activity(chargeCard, { execute: ({ cents }) => console.log(`shop: charging ${cents} cents`) }),
  ],
})
shop.on('saga.completed', ({ payload }) => console.log(`shop: ${payload.slipId} completed`))
shop.on('order.placed', ({ payload }) => console.log(`shop: mail about ${payload.id}`), { name: 'mail' })
shop.on('order.placed', ({ payload }) => console.log(`shop: audit of ${payload.id}`), { name: 'audit' })

// The warehouse: runs one activity of the shop's slips, and follows its orders, each one's changes in their order.
const warehouse = new OutboxEventBus<Events>(outbox)
new SagaEngine({
  bus: warehouse,
  store,
  activities: [
    activity(reserveStock, {
      execute({ sku }) {
        console.log(`warehouse: reserving ${sku}`)
        return { log: { sku } }
      },
      compensate: ({ sku }) => console.log(`warehouse: releasing ${sku}`),
    }),
    chargeCard,
  ],
})
warehouse.on('order.changed', ({ payload }) =>
  console.log(`warehouse: ${payload.id} is ${payload.status} now`),
)

await Promise.all([shop.start(), warehouse.start()])
const ended = Promise.all([
  shop.waitFor('saga.completed'),
  warehouse.waitFor('order.changed', { where: ({ payload }) => payload.status === 'sent' }),
])

await outbox.transaction(async () => {
  await shop.emit('order.placed', { id: 'order-1', cents: 4_200 })
  await sagas.emit(
    routingSlip('order', 'order-1').add(reserveStock, { sku: 'chai' }).add(chargeCard, { cents: 4_200 }),
  )
  for (const status of ['placed', 'packed', 'sent'])
    await shop.emit('order.changed', { id: 'order-1', status }, { key: 'order-1' })
})

await ended
await Promise.all([shop.stop(), warehouse.stop()])
const { due, leased, dead, blocked } = await outbox.stats()
console.log(`left: ${due + leased + dead + blocked}`)
