import { Outbox, type OutboxOptions } from 'outbox-core'
import { PostgresStorage, type PostgresStorageOptions } from 'outbox-core/sql'
import {
  type PrismaClientLike,
  PrismaExecutor,
  type PrismaTransaction,
  type PrismaTransactionOptions,
} from './executor.ts'

export interface PostgresPrismaOutboxOptions extends OutboxOptions, PostgresStorageOptions {
  /**
   * Schema of the tables; it has to exist.
   * @default that of the driver adapter, `new PrismaPg(config, { schema })`, else the connection's search path
   */
  readonly schema?: string
}

/**
 * A transactional outbox in Postgres, through a Prisma 7 client.
 *
 * `transaction` hands out Prisma's own transaction client and takes Prisma's own options (`maxWait`, `timeout`,
 * `isolationLevel`). A transaction that loses against another one (P2034, serialization failure, deadlock) is run again
 * as a whole, up to five times: keep side effects out of its callback. One that takes longer than Prisma's `timeout` is a
 * TransactionTimeoutError.
 */
export class PostgresPrismaOutbox<Tx extends PrismaTransaction> extends Outbox<Tx, PrismaTransactionOptions> {
  /**
   * @param prisma your own Prisma client; the outbox opens no connection and closes none
   * @throws ConfigurationError naming the option and its value
   */
  constructor(prisma: PrismaClientLike<Tx>, options: PostgresPrismaOutboxOptions = {}) {
    const executor = new PrismaExecutor(prisma)
    const schema = options.schema ?? executor.schema
    super(new PostgresStorage(executor, { ...options, ...(schema !== undefined && { schema }) }), options)
  }
}
