import { Outbox, type OutboxOptions, systemClock } from 'outbox-core'
import type { DocumentClient } from './client.ts'
import { type DynamoDBTableOptions, tablesOf } from './schema.ts'
import { DynamoDBStorage } from './storage.ts'
import { DynamoDBTransaction } from './transaction.ts'

export interface DynamoDBAwsSdkOutboxOptions extends OutboxOptions, DynamoDBTableOptions {
  /**
   * Creates missing tables at `initialize()`, billed on demand, and switches their time to live on. With false it only
   * checks both.
   * @default true
   */
  readonly createTables?: boolean
  /**
   * Spreads payloads larger than an item (400 KB) over several items of the same transaction, up to 3.9 MB.
   * @default false
   */
  readonly chunkPayloads?: boolean
}

/**
 * A transactional outbox in DynamoDB, through a DynamoDBDocumentClient.
 *
 * `transaction` hands out a collector: put your own items into it (`tx.put({ TableName, Item })`), and they are sent together
 * with events and payloads as one TransactWriteItems when the callback resolves. At most 100 items and 4 MB.
 *
 * DynamoDB has no clock: what is due, leased and expired is judged by each process's own. Keep them within a fraction of the lease.
 */
export class DynamoDBAwsSdkOutbox extends Outbox<DynamoDBTransaction> {
  /**
   * @param client your own document client; the outbox makes none
   * @throws ConfigurationError naming the option and its value
   */
  constructor(client: DocumentClient, options: DynamoDBAwsSdkOutboxOptions = {}) {
    const storage = new DynamoDBStorage(client, {
      tables: tablesOf(options),
      clock: options.clock ?? systemClock,
      createTables: options.createTables ?? true,
      chunkPayloads: options.chunkPayloads ?? false,
      warn: (fields, message) => this.logger.warn(fields, message),
    })
    super(storage, options)
  }

  /** A transaction of your own: fill it, pass it to `enlist`, and send `tx.items` with your other items. */
  begin(): DynamoDBTransaction {
    return new DynamoDBTransaction()
  }
}
