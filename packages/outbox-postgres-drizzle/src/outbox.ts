import { Outbox, type OutboxOptions } from 'outbox-core'
import { PostgresStorage, type PostgresStorageOptions } from 'outbox-core/sql'
import { type DrizzleDatabase, DrizzleExecutor, type DrizzleTransaction } from './executor.ts'

export interface PostgresDrizzleOutboxOptions extends OutboxOptions, PostgresStorageOptions {}

/**
 * A transactional outbox in Postgres, through a Drizzle database on node-postgres, postgres.js or PGlite.
 *
 * `transaction` hands out Drizzle's own `tx` and takes Drizzle's own options (isolation level, access mode). A
 * transaction that loses against another one (serialization failure, deadlock) is run again as a whole, up to five
 * times: keep side effects out of its callback.
 */
export class PostgresDrizzleOutbox<Tx extends DrizzleTransaction, TxOptions = unknown> extends Outbox<
  Tx,
  TxOptions
> {
  /**
   * @param db your own Drizzle database; the outbox opens no connection and closes none
   * @throws ConfigurationError naming the option and its value
   */
  constructor(db: DrizzleDatabase<Tx, TxOptions>, options: PostgresDrizzleOutboxOptions = {}) {
    super(new PostgresStorage(new DrizzleExecutor(db), options), options)
  }
}
