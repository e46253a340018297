import { ConfigurationError, ForeignTransactionError, TransactionMissingError } from 'outbox-core'
import type { PostgresExecutor, PostgresParameter } from 'outbox-core/sql'

/** The part of a Prisma transaction client that is used. */
export interface PrismaTransaction {
  $queryRawUnsafe<Result = unknown>(text: string, ...parameters: unknown[]): PromiseLike<Result>
  $executeRawUnsafe(text: string, ...parameters: unknown[]): PromiseLike<number>
}

/** The part of a Prisma client that is used: of both generators, and of `$extends` clients. */
export interface PrismaClientLike<Tx extends PrismaTransaction> extends PrismaTransaction {
  $connect(): PromiseLike<unknown>
  $transaction<R>(work: (tx: Tx) => Promise<R>, options?: PrismaTransactionOptions): PromiseLike<R>
}

/** What Prisma takes for an interactive transaction. */
export interface PrismaTransactionOptions {
  /** Milliseconds to wait for a connection. @default 2000, by Prisma */
  readonly maxWait?: number
  /** Milliseconds after which Prisma rolls the transaction back. @default 5000, by Prisma */
  readonly timeout?: number
  readonly isolationLevel?: 'ReadUncommitted' | 'ReadCommitted' | 'RepeatableRead' | 'Serializable'
}

/** Runs statements through Prisma. */
export class PrismaExecutor<Tx extends PrismaTransaction>
  implements PostgresExecutor<Tx, PrismaTransactionOptions>
{
  readonly client: object
  readonly patient = { maxWait: 30_000, timeout: 600_000 } as const
  /** The schema of the driver adapter, which raw statements do not follow by themselves. */
  readonly schema: string | undefined
  readonly #prisma: PrismaClientLike<Tx>

  /** @throws ConfigurationError */
  constructor(prisma: PrismaClientLike<Tx>) {
    const methods = ['$queryRawUnsafe', '$executeRawUnsafe', '$transaction', '$connect'] as const
    const usable = methods.every((method) => typeof prisma?.[method] === 'function')
    if (!usable || !speaksPostgres(prisma)) {
      throw new ConfigurationError(
        'prisma',
        prisma,
        'it must be a Prisma client for Postgres, not a transaction of one',
      )
    }
    this.client = prisma
    this.schema = schemaOf(prisma)
    this.#prisma = prisma
  }

  async query(text: string, parameters: readonly PostgresParameter[], tx?: Tx): Promise<readonly object[]> {
    const client = tx ?? this.#prisma
    if (/^\s*(CREATE|ALTER|SET|SAVEPOINT|RELEASE|ROLLBACK)\b/.test(text)) {
      await client.$executeRawUnsafe(text, ...parameters)
      return []
    }
    return client.$queryRawUnsafe<object[]>(text, ...parameters)
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>, options?: PrismaTransactionOptions): Promise<R> {
    return this.#prisma.$transaction(work, options)
  }

  assertTransaction(tx: Tx): void {
    if (typeof tx?.$queryRawUnsafe !== 'function') {
      throw new ForeignTransactionError(
        'this is no Prisma transaction; pass the tx that $transaction gave you',
      )
    }
    // Transaction clients have $transaction too since Prisma 7.5, for savepoints: only $connect tells them apart.
    if (typeof (tx as Partial<PrismaClientLike<Tx>>).$connect === 'function') {
      throw new TransactionMissingError(
        'this is the Prisma client itself; pass the tx that $transaction gave you',
      )
    }
    if (engineOf(tx) !== engineOf(this.#prisma)) {
      throw new ForeignTransactionError('this transaction belongs to another Prisma client than the outbox')
    }
  }
}

// A client shares its engine with its transactions and its extensions, and with nothing else.
function engineOf(client: object): object | undefined {
  return (client as { _engine?: object })._engine
}

function schemaOf(client: object): string | undefined {
  const { _engineConfig: config } = client as {
    _engineConfig?: { adapter?: { options?: { schema?: unknown } } }
  }
  const schema = config?.adapter?.options?.schema
  return typeof schema === 'string' ? schema : undefined
}

function speaksPostgres(client: object): boolean {
  const { _activeProvider: provider = 'postgresql' } = client as { _activeProvider?: string }
  return provider === 'postgresql' || provider === 'postgres'
}
