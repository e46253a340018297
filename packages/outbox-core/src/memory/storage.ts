import type { Clock } from '../clock.ts'
import { StorageError } from '../errors.ts'
import { assertMoments } from '../moments.ts'
import { changeBy } from '../settlement.ts'
import type {
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  Outcome,
  OutcomeResult,
  Purged,
  Settlement,
  Storage,
  StorageLimits,
  StorageStats,
  StoredEvent,
  When,
} from '../storage.ts'
import { DueQueue } from './due-queue.ts'
import { type InMemoryTransaction, MemoryTransactions } from './transactions.ts'

/** An event as it lies in memory. */
export interface MemoryEvent {
  readonly sequence: number
  readonly id: string
  readonly type: string
  readonly body: string
  readonly headers: Readonly<Record<string, string>>
  readonly fingerprint: string | null
  readonly createdAt: number
  state: 'waiting' | 'leased' | 'done' | 'dead'
  visibleAt: number
  attempt: number
  uncounted: number
  error: string
  diedAt: number
}

const LIMIT_BYTES = 64 * 1024 * 1024

/** The reference: every promise of the seam in plain maps. Nothing outlives the process. */
export class InMemoryStorage implements Storage<InMemoryTransaction> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly client: object = this
  readonly writesTogether = true
  readonly idsAreFree = true
  readonly events: Map<string, MemoryEvent> = new Map()
  readonly payloads: Map<string, { data: Uint8Array; expiresAt: number }> = new Map()
  readonly transactions: MemoryTransactions
  readonly #clock: Clock
  readonly #due = new DueQueue()
  #sequence = 0

  constructor(clock: Clock) {
    this.#clock = clock
    this.transactions = new MemoryTransactions((outcomes) => this.#applyAll(outcomes))
  }

  async initialize(): Promise<void> {}

  /**
   * A transaction collects outcomes and applies them in one synchronous step at its commit. Each is judged when it is
   * written, by what is committed and what the transaction holds already, and judged again at commit: when another
   * transaction has changed the answer meanwhile, nothing is applied and the commit throws a transient StorageError.
   */
  transaction<R>(work: (tx: InMemoryTransaction) => Promise<R>): Promise<R> {
    return this.transactions.run(work)
  }

  enlist<R>(tx: InMemoryTransaction, work: (tx: InMemoryTransaction) => Promise<R>): Promise<R> {
    return this.transactions.enlist(tx, work)
  }

  /** A savepoint: a transaction's outcomes, and what it does at its commit, are lists. */
  nested<R>(tx: InMemoryTransaction, work: () => Promise<R>): Promise<R> {
    return this.transactions.nested(tx, work)
  }

  async write(outcomes: readonly Outcome[], tx?: InMemoryTransaction): Promise<readonly OutcomeResult[]> {
    assertMoments(outcomes)
    if (tx) return this.transactions.buffer(tx, outcomes.map(copied), (all) => this.#results(all))
    const results = this.#results(outcomes)
    this.#applyAll(outcomes.filter((_, index) => results[index]?.status === 'applied'))
    return results
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const now = this.#clock.now()
    const leased: LeasedEvent[] = []
    while (leased.length < limit) {
      const event = this.#due.takeDue(now, ({ id, visibleAt }) => {
        const current = this.events.get(id)
        return current !== undefined && isOpen(current) && current.visibleAt === visibleAt
          ? current
          : undefined
      })
      if (!event) break
      event.state = 'leased'
      event.attempt++
      this.reschedule(event, now + leaseMs)
      leased.push({ ...stored(event), leasedAt: now })
    }
    return leased
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const visibleAt = this.#clock.now() + leaseMs
    const lost: string[] = []
    for (const { id, attempt } of leases) {
      const event = this.events.get(id)
      if (event?.state === 'leased' && event.attempt === attempt) this.reschedule(event, visibleAt)
      else lost.push(id)
    }
    return lost
  }

  async keep(id: string, keepMs: number): Promise<void> {
    const event = this.events.get(id)
    if (event?.state === 'done') event.visibleAt = this.#clock.now() + keepMs
  }

  async getPayload(id: string, tx?: InMemoryTransaction): Promise<Uint8Array | undefined> {
    const now = this.#clock.now()
    const written = tx && this.transactions.written(tx, id)
    if (written === 'removed') return undefined
    if (written) return this.#at(written.expires) > now ? Uint8Array.from(written.data) : undefined
    const stored = this.payloads.get(id)
    return stored && stored.expiresAt > now ? Uint8Array.from(stored.data) : undefined
  }

  async purge(limit: number): Promise<Purged> {
    const now = this.#clock.now()
    const done = [...this.events.values()].filter(
      ({ state, visibleAt }) => state === 'done' && visibleAt <= now,
    )
    const expired = [...this.payloads].filter(([, { expiresAt }]) => expiresAt <= now)
    for (const { id } of done.slice(0, limit)) this.events.delete(id)
    for (const [id] of expired.slice(0, limit)) this.payloads.delete(id)
    return { events: Math.min(limit, done.length), payloads: Math.min(limit, expired.length) }
  }

  async listDead({ limit, ids, type, after }: DeadQuery): Promise<DeadPage> {
    const [diedAfter, tie] = after ?? [Number.NEGATIVE_INFINITY, '0']
    const sequenceAfter = Number(tie)
    const dead = [...this.events.values()]
      .filter(
        (event) =>
          event.state === 'dead' && (!ids || ids.includes(event.id)) && (!type || event.type === type),
      )
      .filter(
        ({ diedAt, sequence }) => diedAt > diedAfter || (diedAt === diedAfter && sequence > sequenceAfter),
      )
      .sort((a, b) => a.diedAt - b.diedAt || a.sequence - b.sequence)
    const page = dead.slice(0, limit)
    const last = page.at(-1)
    const events = page.map((event) => ({ ...stored(event), error: event.error, diedAt: event.diedAt }))
    return { events, ...(last && dead.length > limit && { next: [last.diedAt, String(last.sequence)] }) }
  }

  async stats(): Promise<StorageStats> {
    const now = this.#clock.now()
    const all = [...this.events.values()]
    const due = all.filter((event) => isOpen(event) && event.visibleAt <= now)
    const oldest = due.reduce((soonest, { visibleAt }) => Math.min(soonest, visibleAt), now)
    return {
      due: due.length,
      leased: all.filter(({ state, visibleAt }) => state === 'leased' && visibleAt > now).length,
      dead: all.filter(({ state }) => state === 'dead').length,
      oldestDueMs: due.length === 0 ? null : now - oldest,
    }
  }

  async close(): Promise<void> {}

  /** What would become of each outcome if all of them were applied now, in order. */
  #results(outcomes: readonly Outcome[]): OutcomeResult[] {
    const appended = new Map<string, string | null>()
    const settled = new Set<string>()
    return outcomes.map(({ settle, append }) => {
      if (settle && (settled.has(settle.id) || !this.#held(settle))) return { status: 'lost' }
      if (settle) settled.add(settle.id)
      for (const { id, fingerprint } of append) {
        const known = this.events.get(id)?.fingerprint ?? appended.get(id)
        const exists = this.events.has(id) || appended.has(id)
        if (exists && fingerprint !== null) return { status: 'duplicate', fingerprint: known ?? null }
        appended.set(id, fingerprint)
      }
      return { status: 'applied' }
    })
  }

  #held(settle: Settlement): boolean {
    const event = this.events.get(settle.id)
    return event?.state === changeBy(settle).from && event.attempt === settle.attempt
  }

  #applyAll(outcomes: readonly Outcome[]): void {
    if (this.#results(outcomes).some(({ status }) => status !== 'applied')) {
      throw new StorageError('another transaction has changed the same events; nothing was written', {
        transient: true,
      })
    }
    for (const { settle, append, put, remove } of outcomes) {
      if (settle) this.#settle(settle)
      for (const event of append) {
        if (!this.events.has(event.id)) this.#append(event)
      }
      for (const id of remove) this.payloads.delete(id)
      for (const { id, data, expires } of put) {
        this.payloads.set(id, { data: Uint8Array.from(data), expiresAt: this.#at(expires) })
      }
    }
  }

  #append({ id, type, body, headers, due, leased, fingerprint }: Outcome['append'][number]): void {
    const createdAt = this.#clock.now()
    const event: MemoryEvent = {
      sequence: ++this.#sequence,
      ...{ id, type, body, headers: { ...headers }, fingerprint, createdAt },
      ...{ state: leased ? 'leased' : 'waiting', visibleAt: 0, attempt: leased ? 1 : 0 },
      ...{ uncounted: 0, error: '', diedAt: 0 },
    }
    this.events.set(id, event)
    this.reschedule(event, this.#at(due))
  }

  #settle(settle: Settlement): void {
    const { to, inMs, error, pardon } = changeBy(settle)
    if (to === 'deleted') {
      this.events.delete(settle.id)
      return
    }
    const event = this.events.get(settle.id) as MemoryEvent
    const now = this.#clock.now()
    event.state = to
    event.error = error ?? event.error
    if (pardon === 'all') event.uncounted = event.attempt
    if (pardon === 'one') event.uncounted++
    if (to === 'waiting') this.reschedule(event, now + inMs)
    if (to === 'done') event.visibleAt = now + inMs
    if (to === 'dead') event.diedAt = now
  }

  /** Moves the moment at which an event is due. */
  reschedule(event: MemoryEvent, visibleAt: number): void {
    event.visibleAt = visibleAt
    this.#due.add(event)
  }

  #at(when: When): number {
    return 'at' in when ? when.at : this.#clock.now() + when.inMs
  }
}

function isOpen({ state }: MemoryEvent): boolean {
  return state === 'waiting' || state === 'leased'
}

function stored({ id, type, body, headers, createdAt, attempt, uncounted }: MemoryEvent): StoredEvent {
  return { id, type, body, headers: { ...headers }, createdAt, attempt, uncounted }
}

/** The caller may reuse its bytes before the transaction commits. */
function copied(outcome: Outcome): Outcome {
  return { ...outcome, put: outcome.put.map((record) => ({ ...record, data: Uint8Array.from(record.data) })) }
}
