import { entityKind, type SQL, sql } from 'drizzle-orm'
import { ConfigurationError, ForeignTransactionError, TransactionMissingError } from 'outbox-core'
import type { PostgresExecutor, PostgresParameter } from 'outbox-core/sql'
import { givingBack } from './pool.ts'
import { assertNoPooler } from './pooler.ts'
import { PostgresJsTransaction } from './postgres-js.ts'

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
  readonly client: object
  readonly #db: DrizzleDatabase<Tx, TxOptions>
  readonly #postgresJs = new WeakMap<object, PostgresJsTransaction | undefined>()
  #usable: Promise<void> | undefined

  /** @throws ConfigurationError */
  constructor(db: DrizzleDatabase<Tx, TxOptions>) {
    const usable = typeof db?.execute === 'function' && typeof db.transaction === 'function'
    if (!usable || 'rollback' in db || !speaksPostgres(db)) {
      throw new ConfigurationError('db', db, 'it must be a Drizzle database for Postgres: drizzle(pool)')
    }
    if (isOnSingleClient(db)) {
      throw new ConfigurationError(
        'db',
        db,
        'on a single pg.Client transactions side by side would be one: use drizzle(new pg.Pool({ max: 1 }))',
      )
    }
    this.client = db
    this.#db = db
  }

  async query(text: string, parameters: readonly PostgresParameter[], tx?: Tx): Promise<readonly object[]> {
    const running = (tx ?? this.#db).execute(statement(text, parameters))
    const result = await ((tx && this.#onPostgresJs(tx)?.answered(running)) ?? running)
    return Array.isArray(result) ? result : (result as { rows: object[] }).rows
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    await this.assertUsable()
    let opened: PostgresJsTransaction | undefined
    const noted = (tx: Tx): Promise<R> => {
      opened = this.#onPostgresJs(tx)
      return opened ? opened.result(work(tx)) : work(tx)
    }
    try {
      return await givingBack(this.#db, noted, (callback) =>
        options === undefined ? this.#db.transaction(callback) : this.#db.transaction(callback, options),
      )
    } catch (error) {
      opened?.giveUp(error)
      throw error
    }
  }

  /** Asked once; again when it could not be answered. */
  assertUsable(): Promise<void> {
    this.#usable ??= assertNoPooler(this.#db).catch((error: unknown) => {
      this.#usable = undefined
      throw error
    })
    return this.#usable
  }

  async apart(tx: Tx): Promise<() => void> {
    return (await this.#onPostgresJs(tx)?.apart()) ?? (() => {})
  }

  #onPostgresJs(tx: Tx): PostgresJsTransaction | undefined {
    if (!this.#postgresJs.has(tx)) this.#postgresJs.set(tx, PostgresJsTransaction.of(tx))
    return this.#postgresJs.get(tx)
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

// Only a node-postgres Client and its like have both; a pool, postgres.js and PGlite take turns by themselves.
function isOnSingleClient(db: object): boolean {
  const { $client } = db as { $client?: { connect?: unknown; escapeLiteral?: unknown } }
  return typeof $client?.connect === 'function' && typeof $client.escapeLiteral === 'function'
}

/** A text as Drizzle's `sql` takes it: what stands between the placeholders, and their numbers. */
interface Template {
  readonly strings: TemplateStringsArray
  readonly numbers: readonly number[]
}

const templates = new Map<string, Template>()

// More than there are statements; their texts differ by what a batch holds, not by how much.
const MOST_TEMPLATES = 500

// Drizzle has no call for text with $1: every placeholder becomes a parameter of its own.
function statement(text: string, parameters: readonly PostgresParameter[]): SQL {
  const { strings, numbers } = templates.get(text) ?? remembered(text)
  const values = numbers.map((number) => {
    const value = parameters[number - 1]
    return value instanceof Uint8Array ? bytes(value) : value
  })
  return sql(strings, ...values)
}

function remembered(text: string): Template {
  const parts = text.split(/\$(\d+)/)
  const strings = parts.filter((_, index) => index % 2 === 0)
  const numbers = parts.filter((_, index) => index % 2 === 1).map(Number)
  const template = { strings: Object.assign(strings, { raw: strings }), numbers }
  if (templates.size >= MOST_TEMPLATES) templates.clear()
  templates.set(text, template)
  return template
}

function bytes(value: Uint8Array): Buffer {
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
}
