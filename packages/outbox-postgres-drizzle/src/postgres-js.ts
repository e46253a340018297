import { setTimeout as sleep } from 'node:timers/promises'
import { TransactionClosedError } from 'outbox-core'
import { isDisconnected } from 'outbox-core/sql'

// Between a socket's error and its end lies one turn of the event loop; a busy process takes longer for it.
const LONGEST_END_MS = 200

/** What Drizzle runs the statements of a transaction on postgres.js through. */
interface Session {
  client: {
    savepoint(work: (scoped: Session['client']) => Promise<never>): Promise<unknown>
    unsafe(text: string): unknown
  }
}

/**
 * A transaction on postgres.js, kept from what the client makes of a lost connection.
 *
 * It gives the transaction up, while its callback still runs, and sends what that goes on to ask for down whatever
 * connection is there next, outside of any transaction. What is sent between a socket's error and its end, such as the
 * ROLLBACK of a callback that has failed, is never answered, and from then on neither is anything else on that
 * connection.
 */
export class PostgresJsTransaction {
  readonly #session: Session
  readonly #given = Promise.withResolvers<never>()
  #isLost = false

  /** @returns undefined for a transaction on any other client */
  static of(tx: object): PostgresJsTransaction | undefined {
    const { session } = tx as { session?: Session }
    return typeof session?.client?.savepoint === 'function' ? new PostgresJsTransaction(session) : undefined
  }

  private constructor(session: Session) {
    this.#session = session
    this.#given.promise.catch(() => {})
  }

  /** What a statement of it answers, or the loss of its connection. */
  async answered<R>(statement: PromiseLike<R>): Promise<R> {
    try {
      return await Promise.race([statement, this.#given.promise])
    } catch (error) {
      await this.#end(error)
      throw error
    }
  }

  /** What its callback comes to; nothing, once the connection is lost, as there is nothing left to commit or roll back. */
  async result<R>(callback: Promise<R>): Promise<R> {
    try {
      await callback
    } catch (error) {
      await this.#end(error)
    }
    return this.#isLost ? new Promise<never>(() => {}) : callback
  }

  /** Has it send nothing more, and wait for nothing more: the client has given it up. */
  giveUp(error: unknown): void {
    this.#isLost = true
    const refuse = (): never => {
      throw new TransactionClosedError()
    }
    this.#session.client = { savepoint: refuse, unsafe: refuse }
    this.#given.reject(error)
  }

  /**
   * Runs what follows in a savepoint of the client's, until the returned function is called: it rolls back a transaction
   * if a single statement has failed on its handle, whatever came afterwards, and each savepoint has another handle.
   * Its end is left to whoever ends the savepoint around it: the client would roll back by itself, on whatever the
   * connection is by then.
   */
  async apart(): Promise<() => void> {
    const session = this.#session
    const { client } = session
    session.client = await new Promise((resolve, reject) => {
      const begin = (scoped: Session['client']): Promise<never> => {
        resolve(scoped)
        return new Promise<never>(() => {})
      }
      client.savepoint(begin).catch(reject)
    })
    return () => {
      session.client = client
    }
  }

  /** Waits for the end of a connection that is lost: nothing may be sent before it. */
  async #end(error: unknown): Promise<void> {
    if (this.#isLost || !isDisconnected(error)) return
    await Promise.race([this.#given.promise.catch(() => {}), sleep(LONGEST_END_MS)])
  }
}
