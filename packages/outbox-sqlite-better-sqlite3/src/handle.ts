import { type OutboxError, StorageError, TransactionClosedError } from 'outbox-core'
import type { SqliteDatabase } from './database.ts'

/** The `tx` that users get. */
export type Handle = SqliteDatabase & {
  ended?: true
  /** Why SQLite may have rolled back. */
  failure?: OutboxError
  /** Why it must not be committed. */
  unfit?: OutboxError
}

export function rolledBack({ failure }: Handle): StorageError {
  return new StorageError(
    'SQLite rolled the transaction back after an error inside it; nothing was written',
    { cause: failure, transient: failure instanceof StorageError && failure.transient },
  )
}

/** The connection as its transactions see it: the same, until they have ended. */
export function handlesOf(db: SqliteDatabase): SqliteDatabase {
  const handles: Record<string, unknown> = Object.create(db)
  for (const method of ['prepare', 'exec', 'pragma', 'transaction'] as const) {
    const original = (db as unknown as Record<string, unknown>)[method]
    if (typeof original !== 'function') continue
    handles[method] = function (this: Handle, ...parameters: unknown[]): unknown {
      if (this.ended || !db.inTransaction) throw new TransactionClosedError()
      return original.apply(db, parameters)
    }
  }
  return handles as unknown as SqliteDatabase
}
