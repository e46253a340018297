import {
  keyYielded,
  type NewEvent,
  type Outcome,
  type OutcomeResult,
  type Settlement,
  type SettlementOf,
  StorageError,
} from 'outbox-core'
import { whenParameters, wholeMs } from './moments.ts'
import {
  characters,
  eventParameters,
  holding,
  JSON_AT_MOST,
  NO_PLACE,
  type Placed,
  type Statements,
  settling,
} from './statements.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** The one write: outcomes, each entirely or not at all, in the transaction that is open. */
export class Writer {
  readonly #statements: Statements

  constructor(statements: Statements) {
    this.#statements = statements
  }

  write(outcomes: readonly Outcome[]): OutcomeResult[] {
    const results = outcomes.map((outcome) => this.#settle(outcome))
    this.#append(outcomes, results)
    const applied = outcomes.filter((_, index) => results[index] === APPLIED)
    for (const { remove } of applied) for (const id of remove) this.#statements.run('delete', id)
    for (const { put } of applied) {
      for (const { id, data, expires } of put)
        this.#statements.run('put', id, data, ...whenParameters(expires))
    }
    return results
  }

  #settle({ settle, append }: Outcome): OutcomeResult {
    if (!settle) return APPLIED
    const duplicate = this.#duplicate(append)
    if (duplicate) return this.#statements.get(...holding(settle)) ? duplicate : LOST
    const key = keyYielded(settle)
    if (key !== undefined) return this.#yield(settle, key, append.filter(isPlaced))
    return this.#statements.run(...settling(settle)) === 1 ? APPLIED : LOST
  }

  /** Settles the first event of a key: those in its place come next, or the one behind it. */
  #yield(settle: Settlement, key: string, inPlace: readonly NewEvent[]): OutcomeResult {
    // Once it has left its key, it does not tell any more.
    const [place = null] =
      inPlace.length > 0 ? this.#statements.column<number | null>('place', settle.id) : []
    if (this.#statements.run(...settling(settle)) === 0) return LOST
    for (const [index, event] of inPlace.entries()) this.#appended(event, { place, blocked: index > 0 })
    if (settle.kind === 'complete') this.#completeBehind(settle, key)
    if (inPlace.length === 0) this.#statements.run('unblock', key)
    if (settle.kind === 'complete' && settle.take)
      this.#statements.run('take', settle.take.leaseMs, settle.take.id, key)
    return APPLIED
  }

  /** Those behind the first one, whose lease holds them as well. */
  #completeBehind({ also = [], keepMs }: SettlementOf<'complete'>, key: string): void {
    for (const id of also) {
      if (keepMs === 0) this.#statements.run('completeBehind', id, key)
      else this.#statements.run('finishBehind', wholeMs(keepMs), id, key)
    }
  }

  #placed({ key }: NewEvent): Placed {
    if (key === null) return NO_PLACE
    const [last = null] = this.#statements.column<number | null>('last', key)
    return { place: (last ?? 0) + 1, blocked: last !== null }
  }

  /** Appends what survived settling; an event whose id is taken turns its outcome into a duplicate. */
  #append(outcomes: readonly Outcome[], results: OutcomeResult[]): void {
    const events: NewEvent[] = []
    for (const [index, { append }] of outcomes.entries()) {
      if (results[index] === APPLIED) events.push(...append.filter((event) => !isPlaced(event)))
    }
    const inserted = this.#insert(events)
    if (inserted === 'all') return
    for (const [index, { append }] of outcomes.entries()) {
      if (results[index] !== APPLIED) continue
      for (const event of append) {
        if (!isPlaced(event) && !inserted.has(event.id))
          results[index] = this.#duplicate([event]) ?? this.#there(event)
      }
    }
  }

  /** What an event that was not inserted has to be: there already, with an id that nobody chose. */
  #there(event: NewEvent): OutcomeResult {
    if (this.#statements.get('fingerprint', event.id)) return APPLIED
    // Unless another process has deleted the first one since.
    if (this.#appended(event)) return APPLIED
    throw new StorageError(
      `SQLite has not stored event "${event.id}" and says no reason; a trigger of your own with RAISE(IGNORE) on the outbox’s table does that: remove it`,
      { transient: false },
    )
  }

  #duplicate([event]: readonly NewEvent[]): OutcomeResult | undefined {
    if (!event || event.fingerprint === null) return undefined
    const first = this.#statements.get<{ fingerprint: string | null }>('fingerprint', event.id)
    return first && { status: 'duplicate', ...first }
  }

  #insert(events: readonly NewEvent[]): 'all' | Set<string> {
    const inserted =
      events.length > 1 && events.every(({ key }) => key === null) && characters(events) <= JSON_AT_MOST
        ? new Set(this.#statements.column<string>('appendMany', parametersOf(events)))
        : new Set(events.filter((event) => this.#appended(event)).map(({ id }) => id))
    return inserted.size === events.length ? 'all' : inserted
  }

  #appended(event: NewEvent, placed = this.#placed(event)): boolean {
    return this.#statements.run('appendOne', ...eventParameters(event, placed)) === 1
  }
}

/** Whether it has been appended with the settlement in whose place it comes. */
function isPlaced({ inPlace, key }: NewEvent): boolean {
  return inPlace === true && key !== null
}

function parametersOf(events: readonly NewEvent[]): string {
  return JSON.stringify(events.map((event) => eventParameters(event)))
}
