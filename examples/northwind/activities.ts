import type Database from 'better-sqlite3'
import { type Activity, activity, PermanentError } from 'outbox-core'
import type { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { once } from './shop.ts'

type Shop = SqliteBetterSqlite3Outbox<Database.Database>

/** What a slip can do with an order. Every effect is recorded under the step's idempotency key: it happens once. */
export interface Activities {
  readonly reserveLine: Activity<'reserve-line', { orderId: number; productId: number; quantity: number }>
  readonly chargeCustomer: Activity<'charge-customer', { orderId: number; cents: number }>
  readonly bookShipper: Activity<'book-shipper', { orderId: number; shipperId: number }>
  readonly confirmOrder: Activity<'confirm-order', { orderId: number }>
}

/** @param paceMs how long each activity pretends to take */
export function activitiesOn(outbox: Shop, paceMs: number): Activities {
  const pace = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, paceMs))

  const reserveLine = activity('reserve-line', {
    async execute(
      { orderId, productId, quantity }: { orderId: number; productId: number; quantity: number },
      context,
    ) {
      await pace()
      await outbox.transaction((tx) => {
        const key = context.idempotencyKey
        if (!once(tx, 'INSERT INTO movements VALUES (?, ?, ?, ?)', key, orderId, productId, -quantity)) return
        const { name, discontinued, stock } = tx
          .prepare('SELECT * FROM products WHERE id = ?')
          .get(productId) as {
          name: string
          discontinued: number
          stock: number
        }
        if (discontinued) throw new PermanentError(`discontinued product`)
        if (stock < quantity)
          throw new PermanentError('not enough stock', { cause: new Error(`${name}: ${stock} left`) })
        tx.prepare('UPDATE products SET stock = stock - ? WHERE id = ?').run(quantity, productId)
      })
      return { log: { orderId, productId, quantity } }
    },
    async compensate({ orderId, productId, quantity }, { idempotencyKey }) {
      await pace()
      await outbox.transaction((tx) => {
        if (
          !once(tx, 'INSERT INTO movements VALUES (?, ?, ?, ?)', idempotencyKey, orderId, productId, quantity)
        )
          return
        tx.prepare('UPDATE products SET stock = stock + ? WHERE id = ?').run(quantity, productId)
      })
    },
  })

  const chargeCustomer = activity('charge-customer', {
    async execute({ orderId, cents }: { orderId: number; cents: number }, { idempotencyKey }) {
      await pace()
      await outbox.transaction((tx) => {
        once(tx, 'INSERT INTO payments VALUES (?, ?, ?)', idempotencyKey, orderId, cents)
      })
      return { log: { orderId, cents }, variables: { paidCents: cents } }
    },
    async compensate({ orderId, cents }, { idempotencyKey }) {
      await outbox.transaction((tx) => {
        once(tx, 'INSERT INTO payments VALUES (?, ?, ?)', idempotencyKey, orderId, -cents)
      })
    },
  })

  const bookShipper = activity('book-shipper', {
    async execute({ orderId, shipperId }: { orderId: number; shipperId: number }, { idempotencyKey }) {
      await pace()
      await outbox.transaction((tx) => {
        once(tx, 'INSERT INTO bookings VALUES (?, ?, ?, 1)', idempotencyKey, orderId, shipperId)
      })
      return { log: { orderId, shipperId } }
    },
    async compensate({ orderId, shipperId }, { idempotencyKey }) {
      await outbox.transaction((tx) => {
        once(tx, 'INSERT INTO bookings VALUES (?, ?, ?, -1)', idempotencyKey, orderId, shipperId)
      })
    },
  })

  const confirmOrder = activity('confirm-order', {
    async execute({ orderId }: { orderId: number }) {
      await pace()
      await outbox.transaction((tx) => {
        tx.prepare("UPDATE orders SET status = 'confirmed' WHERE id = ?").run(orderId)
      })
    },
  })

  return { reserveLine, chargeCustomer, bookShipper, confirmOrder }
}
