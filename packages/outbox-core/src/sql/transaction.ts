import { setTimeout as sleep } from 'node:timers/promises'
import { endsWithin, systemClock } from '../clock.ts'
import { TransactionClosedError } from '../errors.ts'
import { isSerializationFailure, postgresCommitError, postgresError } from './errors.ts'

const MOST_RUNS = 5
const LONGEST_PAUSE_MS = 10

/** Runs a transaction again, a single statement too, that lost against another one and so has had no effect. */
export async function untilUndisturbed<R>(run: () => Promise<R>): Promise<R> {
  for (let count = 1; ; count++) {
    try {
      return await run()
    } catch (error) {
      if (count === MOST_RUNS || !isSerializationFailure(error)) throw error
      await sleep(Math.random() * LONGEST_PAUSE_MS * count)
    }
  }
}

// postgres.js may never answer what was sent down a connection that is gone, a rollback or a statement of the callback's
// own: its answer to any of them is not waited for longer. Nothing is lost, as nothing more can be committed.
const LONGEST_WAIT_MS = 5_000

type Callback<Tx, R> = (tx: Tx) => Promise<R>

/** One run of a transaction's callback through a client, whose own habits it levels out. */
export class TransactionAttempt<Tx, R> {
  readonly #work: Callback<Tx, R>
  readonly #ended: WeakSet<object>
  #tx: Tx | undefined
  #phase: 'beginning' | 'working' | 'committing' = 'beginning'
  #working: Promise<void> | undefined
  #failure: { readonly thrown: unknown } | undefined
  readonly #rollback = Promise.withResolvers<never>()
  #patience: ReturnType<typeof setTimeout> | undefined

  /** @param ended where transactions are noted that must not be used any more */
  constructor(work: Callback<Tx, R>, ended: WeakSet<object>) {
    this.#work = work
    this.#ended = ended
  }

  /** @throws what the callback threw, unchanged, else what the client threw, as an error of this library */
  async through(transaction: (callback: Callback<Tx, R>) => Promise<R>): Promise<R> {
    try {
      return await Promise.race([transaction((tx) => this.#run(tx)), this.#rollback.promise])
    } catch (error) {
      // postgres.js gives up as soon as the connection is lost, while the callback still runs.
      const givenUp = this.#phase === 'working' && !this.#failure
      this.#close()
      if (this.#working) await endsWithin(systemClock, LONGEST_WAIT_MS, this.#working)
      if (givenUp && this.#failure?.thrown instanceof TransactionClosedError) throw postgresError(error)
      // A client whose rollback fails throws that instead of what the callback threw.
      if (this.#failure) throw this.#failure.thrown
      // Given up before the callback had ended, it was not committed.
      throw this.#phase === 'committing' && !givenUp ? postgresCommitError(error) : postgresError(error)
    } finally {
      clearTimeout(this.#patience)
      this.#close()
    }
  }

  async #run(tx: Tx): Promise<R> {
    this.#tx = tx
    this.#phase = 'working'
    const running = this.#work(tx)
    this.#working = running.then(
      () => {
        this.#phase = 'committing'
      },
      (thrown) => {
        this.#failure = { thrown }
        this.#patience = setTimeout(() => this.#rollback.reject(thrown), LONGEST_WAIT_MS)
      },
    )
    await this.#working
    return running
  }

  #close(): void {
    if (this.#tx !== undefined) this.#ended.add(this.#tx as object)
  }
}
