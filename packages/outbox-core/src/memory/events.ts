import type { Clock } from '../clock.ts'
import { type Change, changeBy } from '../settlement.ts'
import type { NewEvent, Settlement, When } from '../storage.ts'
import { before, DueQueue } from './due-queue.ts'
import { KeyQueues } from './key-queues.ts'

/** An event as it lies in memory. */
export interface MemoryEvent {
  readonly sequence: number
  readonly id: string
  readonly type: string
  readonly address: string
  readonly body: string
  readonly headers: Readonly<Record<string, string>>
  readonly fingerprint: string | null
  readonly createdAt: number
  /** As long as it has a place in it. */
  key: string | null
  state: 'waiting' | 'leased' | 'done' | 'dead' | 'blocked'
  visibleAt: number
  attempt: number
  uncounted: number
  error: string
  diedAt: number
}

/** The events of a storage: by id, by when they are due, and in the order of their keys. */
export class MemoryEvents {
  readonly byId: Map<string, MemoryEvent> = new Map()
  readonly #clock: Clock
  readonly #due = new Map<string, DueQueue>()
  readonly #keys = new KeyQueues<MemoryEvent>()
  #sequence = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  append(appended: NewEvent): void {
    const event = this.#made(appended)
    if (event.key !== null && !this.#keys.add(event.key, event)) event.state = 'blocked'
    else this.reschedule(event, event.visibleAt)
  }

  /** @param inPlace what takes the place of the event in its key */
  settle(settle: Settlement, inPlace: readonly NewEvent[]): void {
    const event = this.byId.get(settle.id) as MemoryEvent
    const change = changeBy(settle)
    if (settle.kind === 'complete') this.#completeAlso(settle, change)
    if (change.yields) this.#yield(event, inPlace)
    if (settle.kind === 'complete' && settle.take) this.#take(settle.take)
    if (change.to === 'deleted') this.byId.delete(settle.id)
    else this.#change(event, change)
  }

  /** Moves the moment at which an event is due. */
  reschedule(event: MemoryEvent, visibleAt: number): void {
    event.visibleAt = visibleAt
    const queue = this.#due.get(event.address) ?? new DueQueue()
    queue.add(event)
    this.#due.set(event.address, queue)
  }

  /** The open event of these addresses that is due soonest. */
  soonest(addresses: Iterable<string>): MemoryEvent | undefined {
    let found: MemoryEvent | undefined
    for (const address of addresses) {
      const event = this.#due.get(address)?.soonest(({ id, visibleAt }) => {
        const known = this.byId.get(id)
        return known && isOpen(known) && known.visibleAt === visibleAt ? known : undefined
      })
      if (!event) this.#due.delete(address)
      else if (!found || before(event, found)) found = event
    }
    return found
  }

  lease(event: MemoryEvent, until: number): void {
    event.state = 'leased'
    event.attempt++
    this.reschedule(event, until)
  }

  /** The addresses of open events; some may have none any more. */
  get addresses(): readonly string[] {
    return [...this.#due.keys()]
  }

  /** Those that wait behind an event in its key. */
  after(event: MemoryEvent): readonly MemoryEvent[] {
    return event.key === null ? [] : this.#keys.after(event.key, event)
  }

  /** How many wait behind an event in its key. */
  behind(event: MemoryEvent): number {
    return event.key === null ? 0 : this.#keys.behind(event.key, event)
  }

  moment(when: When): number {
    return 'at' in when ? when.at : this.#clock.now() + when.inMs
  }

  #made({ id, type, address, key, body, headers, due, leased, fingerprint }: NewEvent): MemoryEvent {
    const event: MemoryEvent = {
      sequence: ++this.#sequence,
      ...{ id, type, address, key, body, headers: { ...headers }, fingerprint },
      ...{ createdAt: this.#clock.now(), visibleAt: this.moment(due) },
      ...{ state: leased ? 'leased' : 'waiting', attempt: leased ? 1 : 0 },
      ...{ uncounted: 0, error: '', diedAt: 0 },
    }
    this.byId.set(id, event)
    return event
  }

  #completeAlso({ also = [] }: Settlement & { readonly also?: readonly string[] }, change: Change): void {
    for (const id of also) {
      const event = this.byId.get(id) as MemoryEvent
      this.#keys.replace(event.key ?? '', event, [])
      event.key = null
      if (change.to === 'deleted') this.byId.delete(id)
      else this.#change(event, change)
    }
  }

  #take({ id, leaseMs }: { readonly id: string; readonly leaseMs: number }): void {
    const event = this.byId.get(id)
    if (event?.state === 'waiting') this.lease(event, this.#clock.now() + leaseMs)
  }

  #change(event: MemoryEvent, { to, inMs, error, pardon }: Change): void {
    const now = this.#clock.now()
    if (to !== 'deleted') event.state = to
    event.error = error ?? event.error
    if (pardon === 'all') event.uncounted = event.attempt
    if (pardon === 'one') event.uncounted++
    if (to === 'waiting') this.reschedule(event, now + inMs)
    if (to === 'done') event.visibleAt = now + inMs
    if (to === 'dead') event.diedAt = now
  }

  /** Gives up an event's place in its key, to others or to the next. */
  #yield(event: MemoryEvent, inPlace: readonly NewEvent[]): void {
    const made = inPlace.map((one) => this.#made(one))
    const { key } = event
    event.key = null
    if (key === null) {
      for (const one of made) this.reschedule(one, one.visibleAt)
      return
    }
    const [first, ...others] = made
    for (const other of others) other.state = 'blocked'
    this.#keys.replace(key, event, made)
    if (first) this.reschedule(first, first.visibleAt)
    else this.#unblock(this.#keys.first(key))
  }

  #unblock(next: MemoryEvent | undefined): void {
    if (next?.state !== 'blocked') return
    next.state = 'waiting'
    this.reschedule(next, Math.max(next.visibleAt, this.#clock.now()))
  }
}

export function isOpen({ state }: MemoryEvent): boolean {
  return state === 'waiting' || state === 'leased'
}
