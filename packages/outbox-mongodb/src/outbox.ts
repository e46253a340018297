import { identifiers, Outbox, type OutboxOptions } from 'outbox-core'
import type { MongoClientLike, MongoSession, MongoTransactionOptions } from './client.ts'
import { MongoStorage } from './storage.ts'

export interface MongoDBOutboxOptions extends OutboxOptions {
  /** @default the database of the connection string */
  readonly database?: string
  /** Names of the collections, called as in every outbox: a letter or _, then letters, digits and _, at most 48 characters. */
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
  }
  /**
   * Watches a change stream, so that events of other processes are handled at once instead of at the next poll. It takes one
   * of your client's connections for as long as the bus runs.
   * @default false
   */
  readonly watch?: boolean
}

/**
 * A transactional outbox in MongoDB (5.0 or newer, a replica set), through the driver 6 or 7.
 *
 * `transaction` hands out the session; pass it to every operation of yours: `orders.insertOne(order, { session })`. The driver
 * may run the callback again when the transaction meets a passing error: keep side effects out of it, and don't use the session
 * for two operations at once.
 */
export class MongoDBOutbox<Session extends MongoSession = MongoSession> extends Outbox<
  Session,
  MongoTransactionOptions
> {
  /**
   * @param client your own client; the outbox opens no connection and closes none
   * @throws ConfigurationError naming the option and its value
   */
  constructor(client: MongoClientLike<Session>, options: MongoDBOutboxOptions = {}) {
    const { events = 'outbox_events', payloads = 'saga_store' } = options.tables ?? {}
    const names = identifiers('tables', { events, payloads })
    super(new MongoStorage(client, options.database, names, options.watch ?? false), options)
  }
}
