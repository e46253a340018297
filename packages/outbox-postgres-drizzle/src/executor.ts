import { entityKind, type SQL, sql } from 'drizzle-orm'
import { ConfigurationError, ForeignTransactionError, TransactionMissingError } from 'outbox-core'
import type { PostgresExecutor, PostgresParameter } from 'outbox-core/sql'

/** The part of a Drizzle transaction that is used: of node-postgres, postgres.js and PGlite alike. */
export interface DrizzleTransaction {
  execute(query: SQL): PromiseLike<unknown>
  rollback(): never
}

/** The part of a Drizzle database that is used. */
export interface DrizzleDatabase<Tx extends DrizzleTransaction, TxOptions> {
  execute(query: SQL): PromiseLike<unknown>
  transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R>
}

/** Runs statements through Drizzle. */
export class DrizzleExecutor<Tx extends DrizzleTransaction, TxOptions>
  implements PostgresExecutor<Tx, TxOptions>
{
  readonly #db: DrizzleDatabase<Tx, TxOptions>

  /** @throws ConfigurationError */
  constructor(db: DrizzleDatabase<Tx, TxOptions>) {
    const usable = typeof db?.execute === 'function' && typeof db.transaction === 'function'
    if (!usable || 'rollback' in db || !speaksPostgres(db)) {
      throw new ConfigurationError('db', db, 'it must be a Drizzle database for Postgres: drizzle(pool)')
    }
    this.#db = db
  }

  async query(text: string, parameters: readonly PostgresParameter[], tx?: Tx): Promise<readonly object[]> {
    const result = await (tx ?? this.#db).execute(statement(text, parameters))
    return Array.isArray(result) ? result : (result as { rows: object[] }).rows
  }

  transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    return options === undefined ? this.#db.transaction(work) : this.#db.transaction(work, options)
  }

  assertTransaction(tx: Tx): void {
    if ((tx as unknown) === this.#db) {
      throw new TransactionMissingError(
        'this is the Drizzle database itself; pass the tx that db.transaction gave you',
      )
    }
    if (typeof tx?.execute !== 'function' || typeof tx.rollback !== 'function') {
      throw new ForeignTransactionError(
        'this is no Drizzle transaction; pass the tx that db.transaction gave you',
      )
    }
    if (dialectOf(tx) !== dialectOf(this.#db)) {
      throw new ForeignTransactionError(
        'this transaction belongs to another Drizzle database than the outbox',
      )
    }
  }
}

// A database shares its dialect object with its transactions, and with nothing else.
function dialectOf(of: object): object | undefined {
  return (of as { dialect?: object }).dialect
}

function speaksPostgres(db: object): boolean {
  const dialect = dialectOf(db)?.constructor as { [entityKind]?: string } | undefined
  return dialect?.[entityKind]?.startsWith('Pg') ?? true
}

// Drizzle has no call for text with $1: every placeholder becomes a parameter of its own.
function statement(text: string, parameters: readonly PostgresParameter[]): SQL {
  const chunks = text.split(/\$(\d+)/).map((part, index) => {
    if (index % 2 === 0) return sql.raw(part)
    const value = parameters[Number(part) - 1]
    return sql`${sql.param(value instanceof Uint8Array ? bytes(value) : value)}`
  })
  return sql.join(chunks)
}

function bytes(value: Uint8Array): Buffer {
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
}
