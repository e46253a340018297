import { randomUUID } from 'node:crypto'
import type {
  DeadEvent,
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  LeaseRequest,
  Outcome,
  OutcomeResult,
  PayloadRecord,
  Purged,
  Storage,
  StorageLimits,
  StorageStats,
  Waiting,
} from 'outbox-core'
import { callFor, expiryArguments, loneRecord, numeral } from './arguments.ts'
import { RedisCalls } from './calls.ts'
import type { RedisClient, RedisListener, RedisTransaction } from './client.ts'
import { redisError, redisWriteError } from './errors.ts'
import { listenOn } from './listen.ts'
import type { EventState, Known } from './queued.ts'
import {
  APPLIED,
  deadEvents,
  leasedEvents,
  outcomeResult,
  storageStats,
  waitingAddresses,
} from './replies.ts'
import { adoptOlder, checkServer, type Keys, keysOf, payloadKey } from './schema.ts'
import { DEAD } from './scripts/dead.ts'
import { EXTEND } from './scripts/extend.ts'
import { JUDGE } from './scripts/judge.ts'
import { KEEP } from './scripts/keep.ts'
import { LEASE } from './scripts/lease.ts'
import { PURGE } from './scripts/purge.ts'
import { keysOfScripts } from './scripts/script.ts'
import { STATS } from './scripts/stats.ts'
import { WAITING } from './scripts/waiting.ts'
import { inspectReplies, RedisTransactions } from './transaction.ts'

export interface RedisStorageOptions {
  readonly prefix: string
  readonly allowEviction: boolean
  readonly listener: RedisListener | undefined
  readonly notify: boolean
}

// Redis takes 512 MB; beyond this the memory for copies is the sooner end.
const LIMIT_BYTES = 128 * 1024 * 1024

export class RedisStorage<Tx extends RedisTransaction> implements Storage<Tx> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly writesTogether = true
  readonly idsAreFree = true
  readonly client: object
  readonly #redis: RedisClient<Tx>
  readonly #keys: Keys
  readonly #calls: RedisCalls
  readonly #allowEviction: boolean
  readonly #transactions: RedisTransactions<Tx>
  readonly #warnings = new Set<string>()
  #warned = 0
  /** What this storage is to the database, which knows its last lease by it. */
  readonly #name: string = randomUUID()
  #leases = 0
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>
  readonly announce?: () => Promise<void>

  constructor(redis: RedisClient<Tx>, { prefix, allowEviction, listener, notify }: RedisStorageOptions) {
    const keys = keysOf(prefix)
    this.client = redis
    this.#redis = redis
    this.#keys = keys
    this.#calls = new RedisCalls(redis, keys.root)
    this.#allowEviction = allowEviction
    this.#transactions = new RedisTransactions(redis)
    if (listener) this.listen = (wake) => listenOn(listener, keys.channel, wake)
    if (notify) this.announce = () => this.#announce()
  }

  async initialize(): Promise<void> {
    const allowEviction = this.#allowEviction
    const announces = this.announce !== undefined
    const { warnings, version } = await checkServer(this.#calls, this.#keys, { allowEviction, announces })
    for (const warning of warnings) this.#warnings.add(warning)
    await adoptOlder(this.#calls, version)
  }

  /** What `initialize` has found, each only once. */
  takeWarnings(): readonly string[] {
    const warnings = [...this.#warnings].slice(this.#warned)
    this.#warned = this.#warnings.size
    return warnings
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>): Promise<R> {
    const tx = this.#redis.multi()
    this.#transactions.queued(tx)
    try {
      const result = await work(tx)
      // The callback may have executed it.
      const queued = this.#transactions.queued(tx)
      // Under way already, it takes nothing more.
      this.#transactions.end(tx)
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

  nested<R>(tx: Tx, work: () => Promise<R>): Promise<R> {
    return this.#transactions.nested(tx, work)
  }

  async write(
    outcomes: readonly Outcome[],
    tx?: Tx,
    { announce = false }: { readonly announce?: boolean } = {},
  ): Promise<readonly OutcomeResult[]> {
    if (tx) return this.#queue(outcomes, tx)
    if (outcomes.length === 0) return []
    const record = loneRecord(outcomes)
    if (record) return [await this.#put(record)]
    const { script, args, tells } = callFor(outcomes, announce ? { channel: this.#keys.channel } : {})
    const replies = await this.#calls.runOnce(script, args)
    return tells ? (replies as string[]).map(outcomeResult) : outcomes.map(() => APPLIED)
  }

  async lease({ limit, leaseMs, addresses, behind = 0 }: LeaseRequest): Promise<readonly LeasedEvent[]> {
    const shares = addresses.flatMap((share) => [share.address, numeral(share.limit)])
    const most = [numeral(limit), numeral(leaseMs)]
    const call = [...most, this.#name, String(++this.#leases), numeral(behind), ...shares]
    return leasedEvents((await this.#calls.run(LEASE, call)) as string[])
  }

  async waiting(): Promise<readonly Waiting[]> {
    return waitingAddresses((await this.#calls.run(WAITING)) as string[])
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const held = leases.flatMap(({ id, attempt }) => [id, String(attempt)])
    return (await this.#calls.run(EXTEND, [numeral(leaseMs), ...held])) as string[]
  }

  async keep(id: string, keepMs: number): Promise<void> {
    await this.#calls.run(KEEP, [id, numeral(keepMs)])
  }

  async getPayload(id: string, tx?: Tx): Promise<Uint8Array | undefined> {
    const queued = tx && this.#transactions.queued(tx).payload(id)
    if (queued) return queued === 'removed' ? undefined : queued
    try {
      const key = payloadKey(this.#keys, id)
      // A cluster client may send reads to replicas, which may lag; to Redis, GETEX is a write.
      const bytes = this.#redis.isCluster ? this.#redis.getexBuffer(key) : this.#redis.getBuffer(key)
      return (await bytes) ?? undefined
    } catch (error) {
      throw redisError(error)
    }
  }

  async purge(limit: number): Promise<Purged> {
    const [events, more] = (await this.#calls.run(PURGE, [numeral(limit)])) as [number | string, string]
    // Redis itself removes expired payloads.
    return { events: Number(events), payloads: 0, ...(more !== '' && { more: true }) }
  }

  async listDead({ limit, ids = [], type = '', after }: DeadQuery): Promise<DeadPage> {
    const events: DeadEvent[] = []
    let [died, id] = after ? [numeral(after[0]), after[1]] : ['', '']
    let wanted = limit
    // The script looks at so many at once that no other client waits for long.
    do {
      const reply = (await this.#calls.run(DEAD, [numeral(wanted), type, died, id, ...ids])) as string[]
      const [lastDied = '', lastId = '', ...fields] = reply
      died = lastDied
      id = lastId
      const found = deadEvents(fields)
      events.push(...found)
      wanted -= found.length
    } while (died !== '' && wanted > 0)
    return { events, ...(died !== '' && { next: [Number(died), id] as const }) }
  }

  async stats(): Promise<StorageStats> {
    return storageStats((await this.#calls.run(STATS)) as (number | string)[])
  }

  async close(): Promise<void> {}

  async #announce(): Promise<void> {
    try {
      await this.#redis.publish(this.#keys.channel, '')
    } catch (error) {
      throw redisError(error)
    }
  }

  // Without a script's copies of the bytes. ioredis may send it again: that puts the same once more.
  async #put({ id, data, expires }: PayloadRecord): Promise<OutcomeResult> {
    const key = payloadKey(this.#keys, id)
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    const [unit, ms] = expiryArguments(expires)
    try {
      await (unit === 'PX' ? this.#redis.set(key, bytes, 'PX', ms) : this.#redis.set(key, bytes, 'PXAT', ms))
      return APPLIED
    } catch (error) {
      throw redisWriteError(error)
    }
  }

  /**
   * Queues outcomes into a MULTI. What would refuse them is asked now: at EXEC the other commands are applied all the same.
   */
  async #queue(outcomes: readonly Outcome[], tx: Tx): Promise<readonly OutcomeResult[]> {
    this.#transactions.queued(tx)
    const known = await Promise.all(outcomes.map((outcome) => this.#known(outcome)))
    // Meanwhile the transaction may have ended, or been given the same.
    const queued = this.#transactions.queued(tx)
    const results = outcomes.map((outcome, index) => queued.judge(outcome, known[index] as Known))
    const accepted = outcomes.filter((_, index) => results[index] === APPLIED)
    if (accepted.length === 0) return results
    const { script, args, tells } = callFor(accepted, { whenFull: true })
    for (const outcome of accepted) queued.add(outcome)
    if (tells) queued.writes.push({ position: this.#transactions.count(tx) - 1, outcomes: accepted })
    // With its text: an unknown hash would fail in the middle of the MULTI and leave the rest applied.
    tx.eval(script.text, 2, ...keysOfScripts(this.#keys.root), args)
    return results
  }

  /** What Redis knows of the events that decide about an outcome. */
  async #known({ settle, append: [event] }: Outcome): Promise<Known> {
    const [settled, appended] = await Promise.all([
      settle && this.#state(settle.id),
      event && event.fingerprint !== null ? this.#state(event.id) : undefined,
    ])
    return { settled, appended }
  }

  async #state(id: string): Promise<EventState | undefined> {
    const [state, attempt = '', fingerprint = ''] = (await this.#calls.run(JUDGE, [id])) as string[]
    return state === undefined ? undefined : { state, attempt, fingerprint }
  }

  async #exec(tx: Tx): Promise<[Error | null, unknown][] | null> {
    try {
      return await tx.exec()
    } catch (error) {
      throw redisWriteError(error)
    }
  }
}
