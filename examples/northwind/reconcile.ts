import type Database from 'better-sqlite3'
import { orders, totalCents } from './data.ts'

/** Everything that is wrong with the books: nothing, unless a unit of stock or a payment was lost or doubled. */
export function reconcile(db: Database.Database): string[] {
  const wrong: string[] = []
  const rows = <Row>(sql: string): Row[] => db.prepare(sql).all() as Row[]
  const expect = (what: string, expected: number, actual: number): void => {
    if (expected !== actual) wrong.push(`${what}: expected ${expected}, found ${actual}`)
  }
  const sums = (sql: string): Map<string, number> =>
    new Map(rows<{ key: string; sum: number }>(sql).map(({ key, sum }) => [String(key), sum]))

  const status = new Map(
    rows<{ id: number; status: string }>('SELECT id, status FROM orders').map((o) => [o.id, o.status]),
  )
  const moved = sums(
    "SELECT order_id || '/' || product_id AS key, sum(quantity) AS sum FROM movements GROUP BY 1",
  )
  const paid = sums('SELECT order_id AS key, sum(cents) AS sum FROM payments GROUP BY 1')
  const booked = sums('SELECT order_id AS key, sum(count) AS sum FROM bookings GROUP BY 1')
  const taken = new Map<number, number>()

  expect('orders', orders.length, status.size)
  for (const order of orders) {
    const confirmed = status.get(order.Id) === 'confirmed'
    if (!confirmed && status.get(order.Id) !== 'cancelled')
      wrong.push(`order ${order.Id} is ${status.get(order.Id)}`)
    expect(`payment of order ${order.Id}`, confirmed ? totalCents(order) : 0, paid.get(`${order.Id}`) ?? 0)
    expect(`shipments of order ${order.Id}`, confirmed ? 1 : 0, booked.get(`${order.Id}`) ?? 0)
    for (const { ProductId, Quantity } of order.lines) {
      const units = confirmed ? Quantity : 0
      expect(
        `units of product ${ProductId} in order ${order.Id}`,
        -units,
        moved.get(`${order.Id}/${ProductId}`) ?? 0,
      )
      taken.set(ProductId, (taken.get(ProductId) ?? 0) + units)
    }
  }
  for (const { id, initial, stock } of rows<{ id: number; initial: number; stock: number }>(
    'SELECT * FROM products',
  )) {
    expect(`stock of product ${id}`, initial - (taken.get(id) ?? 0), stock)
  }
  const [left] = rows<{ open: number; dead: number; payloads: number }>(`SELECT
    (SELECT count(*) FROM outbox_events WHERE state < 2) AS open,
    (SELECT count(*) FROM outbox_events WHERE state = 3) AS dead,
    (SELECT count(*) FROM saga_store) AS payloads`)
  expect('events left in the outbox', 0, left?.open ?? -1)
  expect('dead letters', 0, left?.dead ?? -1)
  expect('payloads left in the saga store', 0, left?.payloads ?? -1)
  return wrong
}
