import { StorageError, TransactionClosedError } from '../errors.ts'
import { postgresError } from './errors.ts'
import type { PostgresExecutor, PostgresParameter } from './executor.ts'
import type { Statement } from './statements.ts'
import { TransactionAttempt, untilUndisturbed } from './transaction.ts'

/** Runs statements through a client, and knows of its transactions which can still be committed. */
export class StatementRunner<Tx, TxOptions> {
  readonly #executor: PostgresExecutor<Tx, TxOptions>
  readonly #failures = new WeakMap<object, Error>()
  readonly #ended = new WeakSet<object>()
  readonly #depths = new WeakMap<object, number>()

  constructor(executor: PostgresExecutor<Tx, TxOptions>) {
    this.#executor = executor
  }

  async run<Result>(
    { text, parameters }: Statement,
    tx?: Tx,
    map: (error: unknown) => Error = postgresError,
  ): Promise<readonly Result[]> {
    const query = async (): Promise<readonly Result[]> => {
      try {
        return (await this.#executor.query(text, parameters, tx)) as readonly Result[]
      } catch (error) {
        throw map(error)
      }
    }
    assertSendable(parameters)
    if (tx === undefined) return untilUndisturbed(query)
    this.#executor.assertTransaction(tx)
    if (this.#ended.has(tx as object)) throw new TransactionClosedError()
    return query().catch((failure: Error) => {
      this.#failures.set(tx as object, failure)
      throw failure
    })
  }

  transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    return untilUndisturbed(() => {
      const attempt = new TransactionAttempt(async (tx: Tx) => {
        const result = await work(tx)
        await this.#assertUsable(tx)
        return result
      }, this.#ended)
      return attempt.through((callback) => this.#executor.transaction(callback, options))
    })
  }

  /** A savepoint. The names are ours and count the depth; inside one of the same name, it is the inner one that counts. */
  async nested<R>(tx: Tx, work: () => Promise<R>): Promise<R> {
    const outer = this.#depths.get(tx as object) ?? 0
    const name = `outbox_${outer + 1}`
    await this.run(command(`SAVEPOINT ${name}`), tx)
    this.#depths.set(tx as object, outer + 1)
    let together: (() => void) | undefined
    try {
      together = await this.#executor.apart?.(tx)
      const result = await work()
      await this.#assertUsable(tx)
      await this.run(command(`RELEASE SAVEPOINT ${name}`), tx)
      together?.()
      return result
    } catch (thrown) {
      together?.()
      await this.#takeBack(tx, name)
      throw thrown
    } finally {
      this.#depths.set(tx as object, outer)
    }
  }

  async #takeBack(tx: Tx, name: string): Promise<void> {
    try {
      await this.run(command(`ROLLBACK TO SAVEPOINT ${name}`), tx)
      this.#failures.delete(tx as object)
      await this.run(command(`RELEASE SAVEPOINT ${name}`), tx)
    } catch {
      // Noted as the transaction's own failure: it can't be committed.
    }
  }

  // A statement that failed aborts the transaction. Should the callback go on regardless, Postgres would answer COMMIT
  // with a rollback and no error.
  async #assertUsable(tx: Tx): Promise<void> {
    const failure = this.#failures.get(tx as object)
    if (!failure) return
    try {
      await this.#executor.query('SELECT 1 AS usable', [], tx)
    } catch {
      throw failure
    }
  }
}

function command(text: string): Statement {
  return { text, parameters: [] }
}

// Drivers disagree about anything else: some refuse it, some send its name, Prisma makes null of it.
function assertSendable(parameters: readonly PostgresParameter[]): void {
  for (const value of parameters) {
    const isSendable =
      typeof value === 'number'
        ? Number.isFinite(value)
        : typeof value === 'string' || value === null || ArrayBuffer.isView(value)
    if (isSendable) continue
    throw new StorageError('a parameter is no text, finite number, bytes or null; nothing was written', {
      transient: false,
      refused: true,
    })
  }
}
