import type Database from 'better-sqlite3'
import { products } from './data.ts'

/** The service's own tables, in the same database as the outbox. */
export function createShop(db: Database.Database): void {
  db.exec(`
    CREATE TABLE IF NOT EXISTS products (id INTEGER PRIMARY KEY, name TEXT, discontinued INTEGER, initial INTEGER, stock INTEGER CHECK (stock >= 0));
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL, reason TEXT);
    CREATE TABLE IF NOT EXISTS movements (key TEXT PRIMARY KEY, order_id INTEGER, product_id INTEGER, quantity INTEGER);
    CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, order_id INTEGER, cents INTEGER);
    CREATE TABLE IF NOT EXISTS bookings (key TEXT PRIMARY KEY, order_id INTEGER, shipper_id INTEGER, count INTEGER);
  `)
  const add = db.prepare('INSERT OR IGNORE INTO products VALUES (?, ?, ?, ?, ?)')
  for (const { Id, ProductName, Discontinued, UnitsInStock, UnitsOnOrder } of products) {
    const stock = UnitsInStock + UnitsOnOrder
    add.run(Id, ProductName, Discontinued, stock, stock)
  }
}

/** Records something under a key: true the first time, false when a repeated attempt comes by. */
export function once(db: Database.Database, sql: string, ...parameters: unknown[]): boolean {
  return db.prepare(`${sql} ON CONFLICT (key) DO NOTHING`).run(...parameters).changes === 1
}
