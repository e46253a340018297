export { OutboxSagaStore as SqliteBetterSqlite3SagaStore } from 'outbox-core'
export type { SqliteDatabase } from './database.ts'
export { SqliteBetterSqlite3Outbox, type SqliteBetterSqlite3OutboxOptions } from './outbox.ts'
