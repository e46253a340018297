export { OutboxSagaStore as RedisIoredisSagaStore } from 'outbox-core'
export type { RedisClient, RedisListener, RedisTransaction } from './client.ts'
export { RedisIoredisOutbox, type RedisIoredisOutboxOptions } from './outbox.ts'
