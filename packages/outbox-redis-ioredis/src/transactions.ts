import {
  DuplicateEventError,
  ForeignTransactionError,
  type Outcome,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
} from 'outbox-core'
import type { RedisTransaction } from './client.ts'

/** What a transaction has been given so far: nothing of it is in Redis before EXEC. */
export interface Queued {
  readonly outcomes: Outcome[]
  ended: boolean
}

/** ioredis's own view of a `multi()`. */
interface Pipeline {
  readonly redis?: unknown
  readonly _transactions?: number
}

/** The `multi()`s that events were written into. */
export class RedisTransactions<Tx extends RedisTransaction> {
  readonly #redis: unknown
  readonly #queued = new WeakMap<Tx, Queued>()

  constructor(redis: unknown) {
    this.#redis = redis
  }

  /** @throws ForeignTransactionError, TransactionMissingError, TransactionClosedError */
  queued(tx: Tx): Queued {
    const known = this.#queued.get(tx)
    if (known?.ended) throw new TransactionClosedError()
    if (!known) this.#assertOpen(tx)
    const queued = known ?? { outcomes: [], ended: false }
    this.#queued.set(tx, queued)
    return queued
  }

  end(tx: Tx): void {
    const queued = this.#queued.get(tx)
    if (queued) queued.ended = true
  }

  #assertOpen(tx: Tx): void {
    if (typeof tx?.eval !== 'function' || typeof tx.exec !== 'function') {
      throw new ForeignTransactionError('this is no ioredis transaction; pass what redis.multi() returned')
    }
    const { redis, _transactions } = tx as Pipeline
    if (redis !== this.#redis)
      throw new ForeignTransactionError("this multi() is another client's, not the outbox's")
    if (_transactions === 0)
      throw new TransactionMissingError('this multi() was executed already, or is a pipeline()')
  }
}

/** The payload that a transaction has put under an id, `'removed'`, or undefined when it has not touched it. */
export function queuedPayload({ outcomes }: Queued, id: string): Uint8Array | 'removed' | undefined {
  for (const { put, remove } of outcomes.toReversed()) {
    const record = put.findLast((candidate) => candidate.id === id)
    if (record) return record.data.slice()
    if (remove.includes(id)) return 'removed'
  }
  return undefined
}

/**
 * Looks at every reply of an EXEC: ioredis resolves also when commands have failed.
 *
 * @throws StorageError when one has failed, DuplicateEventError when an id was taken in the last moment
 */
export function inspectReplies(
  replies: readonly [Error | null, unknown][] | null,
  { outcomes }: Queued,
): void {
  if (replies === null) {
    throw new StorageError('EXEC was refused because a watched key has changed; nothing was written', {
      transient: true,
    })
  }
  const failed = replies.findIndex(([error]) => error)
  if (failed !== -1) {
    const cause = replies[failed]?.[0] as Error
    throw new StorageError(
      `command ${failed + 1} of ${replies.length} in the MULTI failed (${cause.message}); Redis has applied the others`,
      { cause, transient: false },
    )
  }
  const results = replies.flatMap(([, reply]) =>
    Array.isArray(reply) && reply[0] === 'outbox' ? (reply.slice(1) as string[]) : [],
  )
  for (const [index, { append, settle }] of outcomes.entries()) {
    const result = results[index] ?? 'applied'
    const [event] = append
    if (result === 'lost') {
      throw new StorageError(
        `event "${settle?.id}" was changed by another worker meanwhile; the rest was written`,
        {
          transient: false,
        },
      )
    }
    if (event && result.startsWith('duplicate ') && result.slice(10) !== event.fingerprint) {
      throw new DuplicateEventError(event.id)
    }
  }
}
