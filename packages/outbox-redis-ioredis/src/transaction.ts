import {
  DuplicateEventError,
  ForeignTransactionError,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
} from 'outbox-core'
import type { Commander, RedisTransaction } from './client.ts'
import { isReadOnly, redisError } from './errors.ts'
import { HeldCommands } from './holding.ts'
import { Queued } from './queued.ts'
import { sendOnce } from './send-once.ts'

/** ioredis's own view of a `multi()`. */
interface Pipeline {
  readonly redis?: unknown
  readonly _transactions?: number
}

/** The `multi()`s that events were written into. */
export class RedisTransactions<Tx extends RedisTransaction> {
  readonly #redis: unknown
  readonly #queued = new WeakMap<Tx, Queued>()
  readonly #held = new WeakMap<Tx, HeldCommands[]>()
  readonly #ended = new WeakSet<Tx>()

  constructor(redis: unknown) {
    this.#redis = redis
  }

  /** @throws ForeignTransactionError, TransactionMissingError, TransactionClosedError */
  queued(tx: Tx): Queued {
    if (this.#ended.has(tx)) throw new TransactionClosedError()
    this.#assertOpen(tx)
    const known = this.#queued.get(tx)
    if (known) return known
    sendOnce(tx, 'exec')
    const queued = new Queued()
    this.#queued.set(tx, queued)
    return queued
  }

  end(tx: Tx): void {
    this.#ended.add(tx)
  }

  /** How many commands a transaction has, MULTI and those of its parts among them. */
  count(tx: Tx): number {
    return (this.#held.get(tx) ?? []).reduce((sum, { count }) => sum + count, tx.length)
  }

  /** Hands the commands of a part to what is around it when `work` has succeeded. */
  async nested<R>(tx: Tx, work: () => Promise<R>): Promise<R> {
    const outer = this.queued(tx)
    const part = new Queued(outer)
    const commands = new HeldCommands(tx as Commander)
    const held = this.#held.get(tx) ?? []
    this.#held.set(tx, [...held, commands])
    this.#queued.set(tx, part)
    try {
      const result = await work()
      this.queued(tx)
      commands.release()
      outer.absorb(part)
      return result
    } finally {
      commands.drop()
      this.#held.set(tx, held)
      this.#queued.set(tx, outer)
    }
  }

  #assertOpen(tx: Tx): void {
    const isPipeline = typeof (tx as Commander | undefined)?.sendCommand === 'function'
    if (!isPipeline || typeof tx.eval !== 'function' || typeof tx.exec !== 'function') {
      throw new ForeignTransactionError('this is no ioredis transaction; pass what redis.multi() returned')
    }
    const { redis, _transactions } = tx as Pipeline
    if (redis !== this.#redis)
      throw new ForeignTransactionError("this multi() is another client's, not the outbox's")
    if (_transactions === 0)
      throw new TransactionMissingError('this multi() was executed already, or is a pipeline()')
  }
}

/**
 * Looks at every reply of an EXEC: ioredis resolves also when commands have failed.
 *
 * @throws StorageError when one has failed, DuplicateEventError when an id was taken in the last moment
 */
export function inspectReplies(replies: readonly [Error | null, unknown][] | null, { writes }: Queued): void {
  if (replies === null) {
    throw new StorageError('EXEC was refused because a watched key has changed; nothing was written', {
      transient: true,
    })
  }
  const failed = replies.findIndex(([error]) => error)
  if (failed !== -1) {
    const cause = replies[failed]?.[0] as Error
    // On a replica, scripts are queued and fail only here, and nothing beside them writes.
    if (isReadOnly(cause) || replies.every(([error]) => error)) throw redisError(cause)
    throw new StorageError(
      `command ${failed + 1} of ${replies.length} in the MULTI failed (${cause.message}); Redis has applied the others`,
      { cause, transient: false },
    )
  }
  for (const { position, outcomes } of writes) {
    const results = replies[position]?.[1] as readonly string[]
    for (const [index, { append, settle }] of outcomes.entries()) {
      const result = results[index] ?? 'applied'
      const [event] = append
      if (result === 'lost') {
        throw new StorageError(
          `event "${settle?.id}" was changed by another worker meanwhile; the rest was written`,
          { transient: false },
        )
      }
      if (event && result.startsWith('duplicate ') && result.slice(10) !== event.fingerprint) {
        throw new DuplicateEventError(event.id)
      }
    }
  }
}
