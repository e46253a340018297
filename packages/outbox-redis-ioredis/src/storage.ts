import type {
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  Outcome,
  OutcomeResult,
  Purged,
  Storage,
  StorageLimits,
  StorageStats,
} from 'outbox-core'
import { writeArguments } from './arguments.ts'
import type { RedisClient, RedisListener, RedisTransaction } from './client.ts'
import { isUnknownScript, redisError, redisWriteError } from './errors.ts'
import { assertSupported, type Keys, keysOf, payloadKey, persists } from './schema.ts'
import { DEAD } from './scripts/dead.ts'
import { EXTEND } from './scripts/extend.ts'
import { JUDGE } from './scripts/judge.ts'
import { LEASE } from './scripts/lease.ts'
import { PURGE } from './scripts/purge.ts'
import type { Script } from './scripts/script.ts'
import { STATS } from './scripts/stats.ts'
import { WRITE } from './scripts/write.ts'
import { inspectReplies, type Queued, queuedPayload, RedisTransactions } from './transactions.ts'

export interface RedisStorageOptions {
  readonly prefix: string
  readonly allowEviction: boolean
  readonly listener: RedisListener | undefined
  readonly notify: boolean
}

// Redis takes 512 MB; beyond this the memory for copies is the sooner end.
const LIMIT_BYTES = 128 * 1024 * 1024

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

export class RedisStorage<Tx extends RedisTransaction> implements Storage<Tx> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly #redis: RedisClient<Tx>
  readonly #keys: Keys
  readonly #allowEviction: boolean
  readonly #transactions: RedisTransactions<Tx>
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>
  readonly announce?: () => Promise<void>

  constructor(redis: RedisClient<Tx>, { prefix, allowEviction, listener, notify }: RedisStorageOptions) {
    this.#redis = redis
    this.#keys = keysOf(prefix)
    this.#allowEviction = allowEviction
    this.#transactions = new RedisTransactions(redis)
    if (listener) this.listen = (wake) => this.#subscribe(listener, wake)
    if (notify) this.announce = async () => void (await redis.publish(this.#keys.channel, ''))
  }

  async initialize(): Promise<void> {
    try {
      await assertSupported(this.#redis, this.#keys, this.#allowEviction)
    } catch (error) {
      throw redisError(error)
    }
  }

  persists(): Promise<boolean> {
    return persists(this.#redis)
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>): Promise<R> {
    const tx = this.#redis.multi()
    const queued = this.#transactions.queued(tx)
    try {
      const result = await work(tx)
      inspectReplies(await this.#exec(tx), queued)
      return result
    } finally {
      this.#transactions.end(tx)
    }
  }

  async enlist<R>(tx: Tx, work: (tx: Tx) => Promise<R>): Promise<R> {
    this.#transactions.queued(tx)
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Tx): Promise<readonly OutcomeResult[]> {
    if (tx) return this.#queue(outcomes, tx, this.#transactions.queued(tx))
    if (outcomes.length === 0) return []
    const { due, leased, done, dead, prefix } = this.#keys
    const replies = await this.#run(
      WRITE,
      [due, leased, done, dead],
      writeArguments(prefix, outcomes),
      redisWriteError,
    )
    return (replies as string[]).slice(1).map(outcomeResult)
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const { due, leased, prefix } = this.#keys
    const fields = (await this.#run(
      LEASE,
      [due, leased],
      [prefix, String(limit), String(leaseMs)],
    )) as string[]
    return chunks(fields, 7).map(leasedEvent)
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const { leased, prefix } = this.#keys
    const held = leases.flatMap(({ id, attempt }) => [id, String(attempt)])
    return (await this.#run(EXTEND, [leased], [prefix, String(leaseMs), ...held])) as string[]
  }

  async getPayload(id: string, tx?: Tx): Promise<Uint8Array | undefined> {
    const queued = tx && queuedPayload(this.#transactions.queued(tx), id)
    if (queued) return queued === 'removed' ? undefined : queued
    try {
      return (await this.#redis.getBuffer(payloadKey(this.#keys, id))) ?? undefined
    } catch (error) {
      throw redisError(error)
    }
  }

  async purge(limit: number): Promise<Purged> {
    const { done, prefix } = this.#keys
    // Redis itself removes expired payloads.
    return { events: (await this.#run(PURGE, [done], [prefix, String(limit)])) as number, payloads: 0 }
  }

  async listDead({ limit, ids = [], type = '', after }: DeadQuery): Promise<DeadPage> {
    const { dead, prefix } = this.#keys
    const [, died = '-inf', id = ''] = /^(\d+)-(.*)$/s.exec(after ?? '') ?? []
    const fields = (await this.#run(
      DEAD,
      [dead],
      [prefix, String(limit), type, died, id, ...ids],
    )) as string[]
    const letters = chunks(fields, 9)
    const events = letters.map((letter) => ({
      ...leasedEvent(letter),
      error: letter[7] ?? '',
      diedAt: Number(letter[8]),
    }))
    const last = events.at(-1)
    return { events, ...(last && events.length === limit && { next: `${last.diedAt}-${last.id}` }) }
  }

  async stats(): Promise<StorageStats> {
    const keys = [this.#keys.due, this.#keys.leased, this.#keys.dead]
    const [due, leased, dead, oldest] = (await this.#run(STATS, keys, [])) as [number, number, number, string]
    return { due, leased, dead, oldestDueMs: oldest === '' ? null : Number(oldest) }
  }

  async close(): Promise<void> {}

  /** Queues outcomes into a MULTI. What would refuse them is asked now: at EXEC the other commands are applied all the same. */
  async #queue(outcomes: readonly Outcome[], tx: Tx, queued: Queued): Promise<readonly OutcomeResult[]> {
    const results: OutcomeResult[] = []
    const accepted: Outcome[] = []
    for (const outcome of outcomes) {
      const result = await this.#judge(outcome, [...queued.outcomes, ...accepted])
      results.push(result)
      if (result === APPLIED) accepted.push(outcome)
    }
    if (accepted.length > 0) {
      const { due, leased, done, dead, prefix } = this.#keys
      // With its text: an unknown hash would fail in the middle of the MULTI and leave the rest applied.
      tx.eval(WRITE.text, 4, due, leased, done, dead, ...writeArguments(prefix, accepted))
      queued.outcomes.push(...accepted)
    }
    return results
  }

  /** What would become of an outcome now, after those that the transaction holds already. */
  async #judge({ settle, append: [event] }: Outcome, before: readonly Outcome[]): Promise<OutcomeResult> {
    if (settle) {
      if (before.some((outcome) => outcome.settle?.id === settle.id)) return LOST
      const { state, attempt } = await this.#known(settle.id)
      const needed = settle.kind === 'revive' || settle.kind === 'discard' ? 'dead' : 'leased'
      if (state !== needed || Number(attempt) !== settle.attempt) return LOST
    }
    if (!event || event.fingerprint === null) return APPLIED
    const earlier = before.flatMap((outcome) => outcome.append).find(({ id }) => id === event.id)
    if (earlier) return { status: 'duplicate', fingerprint: earlier.fingerprint }
    const { state, fingerprint } = await this.#known(event.id)
    return state === undefined ? APPLIED : { status: 'duplicate', fingerprint: fingerprint || null }
  }

  async #known(id: string): Promise<{ state?: string; attempt?: string; fingerprint?: string }> {
    const fields = (await this.#run(JUDGE, [`${this.#keys.prefix}event:${id}`], [])) as string[]
    const [state, attempt, fingerprint] = fields
    return state === undefined ? {} : { state, attempt: attempt ?? '', fingerprint: fingerprint ?? '' }
  }

  async #exec(tx: Tx): Promise<[Error | null, unknown][] | null> {
    try {
      return await tx.exec()
    } catch (error) {
      throw redisWriteError(error)
    }
  }

  async #run(
    { text, sha }: Script,
    keys: readonly string[],
    parameters: readonly (string | Buffer)[],
    map: (error: unknown) => Error = redisError,
  ): Promise<unknown> {
    try {
      return await this.#redis.evalsha(sha, keys.length, ...keys, ...parameters).catch((error) => {
        if (!isUnknownScript(error)) throw error
        return this.#redis.eval(text, keys.length, ...keys, ...parameters)
      })
    } catch (error) {
      throw map(error)
    }
  }

  async #subscribe(listener: RedisListener, wake: () => void): Promise<() => Promise<void>> {
    const { channel } = this.#keys
    const onMessage = (from: string): void => {
      if (from === channel) wake()
    }
    listener.on('message', onMessage)
    await listener.subscribe(channel)
    return async () => {
      listener.off('message', onMessage)
      // The connection may be gone by now, and with it the subscription.
      await listener.unsubscribe(channel).catch(() => {})
    }
  }
}

function outcomeResult(reply: string): OutcomeResult {
  if (reply === 'applied') return APPLIED
  if (reply === 'lost') return LOST
  return { status: 'duplicate', fingerprint: reply.slice('duplicate '.length) || null }
}

function leasedEvent(fields: readonly string[]): LeasedEvent {
  const [id = '', type = '', body = '', headers = '{}', created, attempt, uncounted] = fields
  return {
    id,
    type,
    body,
    headers: JSON.parse(headers),
    createdAt: Number(created),
    attempt: Number(attempt),
    uncounted: Number(uncounted),
  }
}

function chunks(fields: readonly string[], size: number): string[][] {
  return Array.from({ length: fields.length / size }, (_, index) =>
    fields.slice(index * size, (index + 1) * size),
  )
}
