import type { SqliteDatabase } from './database.ts'

/** better-sqlite3's own. */
interface Synchronous {
  transaction?(fn: () => unknown): () => unknown
}

/**
 * Tells whether the caller runs inside a function given to `db.transaction`, better-sqlite3's own. It is synchronous, so
 * as long as it runs it is on the stack. Nothing else tells it from a transaction that other, asynchronous code has open
 * on the connection.
 */
export class SynchronousTransactions {
  readonly #db: SqliteDatabase & Synchronous
  #place: string | undefined

  constructor(db: SqliteDatabase) {
    this.#db = db
    this.#learn()
  }

  get running(): boolean {
    if (!this.#db.inTransaction) return false
    this.#learn()
    return this.#place !== undefined && callers().some((caller) => placeOf(caller) === this.#place)
  }

  // Seen once instead of known by its name, which bundlers change. It begins and ends a transaction without a statement.
  #learn(): void {
    if (this.#place !== undefined || typeof this.#db.transaction !== 'function') return
    try {
      this.#db.transaction(() => {
        const [, , caller] = callers()
        this.#place = caller && placeOf(caller)
      })()
    } catch {
      // An iterator is open: seen the next time.
    }
  }
}

function callers(): NodeJS.CallSite[] {
  const { prepareStackTrace, stackTraceLimit } = Error
  Error.stackTraceLimit = Number.POSITIVE_INFINITY
  Error.prepareStackTrace = (_, callSites) => callSites
  try {
    return new Error().stack as unknown as NodeJS.CallSite[]
  } finally {
    Object.assign(Error, { prepareStackTrace, stackTraceLimit })
  }
}

function placeOf(caller: NodeJS.CallSite): string {
  return `${caller.getFileName()}:${caller.getLineNumber()}:${caller.getColumnNumber()}`
}
