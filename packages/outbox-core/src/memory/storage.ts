import type { Clock } from '../clock.ts'
import { StorageError } from '../errors.ts'
import { assertMoments } from '../moments.ts'
import { changeBy } from '../settlement.ts'
import type {
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  LeaseRequest,
  Outcome,
  OutcomeResult,
  Purged,
  Settlement,
  Storage,
  StorageLimits,
  StorageStats,
  StoredEvent,
  Waiting,
} from '../storage.ts'
import { isOpen, type MemoryEvent, MemoryEvents } from './events.ts'
import { type InMemoryTransaction, MemoryTransactions } from './transactions.ts'

const LIMIT_BYTES = 64 * 1024 * 1024

/** The reference: every promise of the seam in plain maps. Nothing outlives the process. */
export class InMemoryStorage implements Storage<InMemoryTransaction> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly client: object = this
  readonly writesTogether = true
  readonly idsAreFree = true
  readonly #events: MemoryEvents
  readonly payloads: Map<string, { data: Uint8Array; expiresAt: number }> = new Map()
  readonly transactions: MemoryTransactions
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
    this.#events = new MemoryEvents(clock)
    this.transactions = new MemoryTransactions((outcomes) => this.#applyAll(outcomes))
  }

  get events(): Map<string, MemoryEvent> {
    return this.#events.byId
  }

  /** Moves the moment at which an event is due. */
  reschedule(event: MemoryEvent, visibleAt: number): void {
    this.#events.reschedule(event, visibleAt)
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

  async lease({ limit, leaseMs, addresses, behind = 0 }: LeaseRequest): Promise<readonly LeasedEvent[]> {
    const now = this.#clock.now()
    const left = new Map(addresses.map(({ address, limit: most }) => [address, most]))
    const leased: LeasedEvent[] = []
    while (leased.length < limit) {
      const event = this.#events.soonest(left.keys())
      if (!event || event.visibleAt > now) break
      const room = (left.get(event.address) ?? 0) - 1
      if (room > 0) left.set(event.address, room)
      else left.delete(event.address)
      this.#events.lease(event, now + leaseMs)
      const next = behind > 0 ? this.#behind(event, behind, addresses) : []
      leased.push({ ...stored(event), leasedAt: now, ...(next.length > 0 && { behind: next }) })
    }
    return leased
  }

  #behind(event: MemoryEvent, most: number, addresses: LeaseRequest['addresses']): readonly StoredEvent[] {
    const next = this.#events.after(event).slice(0, most)
    const now = this.#clock.now()
    const other = next.findIndex(
      ({ address, visibleAt }) => visibleAt > now || !addresses.some((asked) => asked.address === address),
    )
    return (other === -1 ? next : next.slice(0, other)).map(stored)
  }

  async waiting(): Promise<readonly Waiting[]> {
    const now = this.#clock.now()
    return this.#events.addresses.flatMap((address) => {
      const oldest = this.#events.soonest([address])
      return oldest ? [{ address, oldestDueMs: now - oldest.visibleAt }] : []
    })
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const visibleAt = this.#clock.now() + leaseMs
    const lost: string[] = []
    for (const { id, attempt } of leases) {
      const event = this.events.get(id)
      if (event?.state === 'leased' && event.attempt === attempt) this.#events.reschedule(event, visibleAt)
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
    if (written) return this.#events.moment(written.expires) > now ? Uint8Array.from(written.data) : undefined
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
    const events = page.map((event) => ({
      ...stored(event),
      ...{ error: event.error, diedAt: event.diedAt },
      waitingBehind: this.#events.behind(event),
    }))
    return { events, ...(last && dead.length > limit && { next: [last.diedAt, String(last.sequence)] }) }
  }

  async stats(): Promise<StorageStats> {
    const now = this.#clock.now()
    const all = [...this.events.values()]
    const due = all.filter((event) => isOpen(event) && event.visibleAt <= now)
    const oldest = due.reduce((soonest, { visibleAt }) => Math.min(soonest, visibleAt), now)
    const dueByAddress: Record<string, number> = {}
    for (const { address } of due) dueByAddress[address] = (dueByAddress[address] ?? 0) + 1
    return {
      due: due.length,
      dueByAddress,
      blocked: all.filter(({ state }) => state === 'blocked').length,
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
    for (const { settle, append } of outcomes) {
      if (settle)
        this.#events.settle(
          settle,
          append.filter(({ inPlace }) => inPlace),
        )
    }
    for (const { append, put, remove } of outcomes) {
      for (const event of append) {
        if (!event.inPlace && !this.events.has(event.id)) this.#events.append(event)
      }
      for (const id of remove) this.payloads.delete(id)
      for (const { id, data, expires } of put) {
        this.payloads.set(id, { data: Uint8Array.from(data), expiresAt: this.#events.moment(expires) })
      }
    }
  }
}

function stored(event: MemoryEvent): StoredEvent {
  const { id, type, address, key, body, headers, createdAt, attempt, uncounted } = event
  return { id, type, address, key, body, headers: { ...headers }, createdAt, attempt, uncounted }
}

/** The caller may reuse its bytes before the transaction commits. */
function copied(outcome: Outcome): Outcome {
  return { ...outcome, put: outcome.put.map((record) => ({ ...record, data: Uint8Array.from(record.data) })) }
}
