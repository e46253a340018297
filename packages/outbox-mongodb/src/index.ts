export { OutboxSagaStore as MongoDBSagaStore } from 'outbox-core'
export type { MongoClientLike, MongoSession, MongoTransactionOptions } from './client.ts'
export { MongoDBOutbox, type MongoDBOutboxOptions } from './outbox.ts'
