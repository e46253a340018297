import { setTimeout as sleep } from 'node:timers/promises'
import {
  ForeignTransactionError,
  TransactionClosedError,
  TransactionMissingError,
  toError,
} from 'outbox-core'
import type { MongoClientLike, MongoSession, MongoTransactionOptions } from './client.ts'
import { isTransientInTransaction, mongoCommitError, mongoError } from './errors.ts'

export const MAJORITY = { writeConcern: { w: 'majority' } } as const

const DEFAULTS = { readConcern: { level: 'snapshot' }, readPreference: 'primary', ...MAJORITY } as const

/** What makes an operation part of a session's transaction, whose read preference would be the client's otherwise. */
export function within(session: MongoSession): object {
  return { session, readPreference: 'primary' }
}

// Who meets an open transaction is told so at once, however long that goes on.
const LONGEST_PAUSE_MS = 100

/** Runs `work` in a transaction of a session of its own; again when the driver says that it may succeed then. */
export async function transact<Session extends MongoSession, R>(
  client: MongoClientLike<Session>,
  work: (session: Session) => Promise<R>,
  options?: MongoTransactionOptions,
): Promise<R> {
  const session = client.startSession()
  let thrown: { readonly error: unknown } | undefined
  let runs = 0
  try {
    let result: R | undefined
    const run = async (): Promise<void> => {
      thrown = undefined
      if (runs++ > 0) await sleep(Math.random() * Math.min(2 ** runs, LONGEST_PAUSE_MS))
      try {
        result = await work(session)
      } catch (error) {
        thrown = { error }
        throw driverError(error)
      }
    }
    await session.withTransaction(run, { ...DEFAULTS, ...options })
    return result as R
  } catch (error) {
    // What the callback threw is the caller's own; the rest happened at commit, unless it was never called.
    if (thrown) throw thrown.error
    throw runs > 0 ? mongoCommitError(error) : mongoError(error)
  } finally {
    await session.endSession()
  }
}

/** @throws unless a transaction of this client is open on the session. */
export function assertOpen<Session extends MongoSession>(
  session: Session,
  ours: MongoClientLike<Session>,
): void {
  if (typeof session?.inTransaction !== 'function') {
    throw new ForeignTransactionError('this is no session; pass one that your client started')
  }
  const { client } = session as { readonly client?: unknown }
  if (client !== undefined && client !== ours) {
    throw new ForeignTransactionError("this session is another client's, not the outbox's")
  }
  if (session.hasEnded) throw new TransactionClosedError()
  if (!session.inTransaction()) {
    throw new TransactionMissingError(
      'the session has no transaction open; call session.startTransaction() first',
    )
  }
}

// The driver runs a transaction again only when it sees an error of its own, which somebody may have wrapped meanwhile.
function driverError(error: unknown): unknown {
  if (isTransientInTransaction(error)) return error
  const { cause } = toError(error)
  return isTransientInTransaction(cause) ? cause : error
}
