import type { LeasedEvent, NewEvent, Outcome, Settlement, Storage } from 'outbox-core'

/** What can happen to the events of a few keys; numbers choose among what there is. */
export type Move =
  | {
      readonly kind: 'write'
      readonly keys: readonly number[]
      readonly fate: 'commit' | 'roll back' | 'alone'
    }
  | { readonly kind: 'lease'; readonly limit: number }
  | {
      readonly kind: 'settle'
      readonly which: number
      readonly as: 'complete' | 'keep' | 'retry' | 'bury' | 'skip'
      readonly appends: readonly ('in place' | 'same key' | 'other key')[]
    }
  | { readonly kind: 'dead'; readonly which: number; readonly as: 'revive' | 'discard' }
  | { readonly kind: 'forget' }

interface Held {
  readonly id: string
  state: 'waiting' | 'leased' | 'dead'
}

const EMPTY = { append: [], put: [], remove: [] }

/** Says what has to come of moves, and asks a storage for it. */
export class Keys<Tx> {
  readonly #storage: Storage<Tx>
  readonly #queues = new Map<string, Held[]>()
  readonly #leased = new Map<string, LeasedEvent>()
  /** Dead letters that belong to a key. */
  readonly #dead = new Map<string, LeasedEvent>()
  readonly #expire: () => Promise<void>
  #count = 0

  /** @param expire makes all leases run out */
  constructor(storage: Storage<Tx>, expire: () => Promise<void>) {
    this.#storage = storage
    this.#expire = expire
  }

  async make(move: Move): Promise<void> {
    switch (move.kind) {
      case 'write':
        return this.#write(move.keys.map(nameOf), move.fate)
      case 'lease':
        return this.#lease(move.limit)
      case 'settle':
        return this.#settle(move)
      case 'dead':
        return this.#settleDead(move.which, move.as)
      case 'forget':
        return this.#forget()
    }
  }

  /** Every key is brought to its end, in order. @throws when something is left, or never comes */
  async end(): Promise<void> {
    await this.#forget()
    while (this.#dead.size > 0) await this.#settleDead(0, 'discard')
    while ([...this.#queues.values()].some(({ length }) => length > 0)) {
      await this.#lease(100)
      for (const event of [...this.#leased.values()]) {
        await this.#applied({ kind: 'complete', keepMs: 0, ...lease(event) })
        this.#gone(event)
      }
    }
    const { due, leased, blocked } = await this.#storage.stats()
    if (due + leased + blocked > 0) throw new Error(`left: ${due} due, ${leased} leased, ${blocked} blocked`)
  }

  async #write(keys: readonly string[], fate: 'commit' | 'roll back' | 'alone'): Promise<void> {
    const events = keys.map((key) => this.#event(key))
    if (fate === 'alone') {
      await this.#storage.write(events.map((event) => ({ ...EMPTY, append: [event] })))
    } else {
      const failure = new Error('rolled back')
      const writing = this.#storage.transaction(async (tx) => {
        for (const event of events) await this.#storage.write([{ ...EMPTY, append: [event] }], tx)
        if (fate === 'roll back') throw failure
      })
      await writing.catch((error: unknown) => {
        if (error !== failure) throw error
      })
    }
    if (fate !== 'roll back') for (const event of events) this.#queue(event.key).push(waiting(event))
  }

  async #lease(limit: number): Promise<void> {
    const may = [...this.#queues.values()].flatMap(([first]) => (first?.state === 'waiting' ? [first] : []))
    const events = await this.#storage.lease({
      limit,
      leaseMs: 3_600_000,
      addresses: [{ address: 'a', limit }],
    })
    const wanted = Math.min(limit, may.length)
    const strangers = events.filter(({ id }) => !may.some((one) => one.id === id))
    if (strangers.length > 0 || events.length !== wanted) {
      const found = events.map(({ id, key }) => `${id} of ${key}`).join(', ') || 'nothing'
      throw new Error(`leased ${found}; of ${may.map(({ id }) => id).join(', ')} so many: ${wanted}`)
    }
    for (const event of events) {
      this.#leased.set(event.id, event)
      const [first] = this.#queue(event.key)
      if (first) first.state = 'leased'
    }
  }

  async #settle({ which, as, appends }: Extract<Move, { kind: 'settle' }>): Promise<void> {
    const event = chosen([...this.#leased.values()], which)
    if (!event?.key) return
    const ends = as === 'complete' || as === 'keep'
    const appended = (ends ? appends : []).map((how) =>
      this.#event(how === 'other key' ? nameOf(which) : (event.key as string), how === 'in place'),
    )
    await this.#applied(settlement(as, event), appended)
    const queue = this.#queue(event.key)
    this.#leased.delete(event.id)
    if (as === 'retry') (queue[0] as Held).state = 'waiting'
    if (as === 'bury') {
      ;(queue[0] as Held).state = 'dead'
      this.#dead.set(event.id, event)
    }
    if (!ends && as !== 'skip') return
    queue.splice(0, 1, ...appended.filter(({ inPlace }) => inPlace).map(waiting))
    for (const one of appended) if (!one.inPlace) this.#queue(one.key).push(waiting(one))
  }

  async #settleDead(which: number, as: 'revive' | 'discard'): Promise<void> {
    const event = chosen([...this.#dead.values()], which)
    if (!event) return
    await this.#applied({ kind: as, ...lease(event) })
    this.#dead.delete(event.id)
    const queue = this.#queue(event.key)
    if (as === 'discard') queue.shift()
    else (queue[0] as Held).state = 'waiting'
  }

  async #forget(): Promise<void> {
    await this.#expire()
    for (const { key } of this.#leased.values()) (this.#queue(key)[0] as Held).state = 'waiting'
    this.#leased.clear()
  }

  #gone(event: LeasedEvent): void {
    this.#leased.delete(event.id)
    this.#queue(event.key).shift()
  }

  async #applied(settle: Settlement, append: readonly NewEvent[] = []): Promise<void> {
    const outcome: Outcome = { ...EMPTY, settle, append }
    const [result] = await this.#storage.write([outcome])
    if (result?.status !== 'applied') throw new Error(`${settle.kind} of ${settle.id} is ${result?.status}`)
  }

  #queue(key: string | null): Held[] {
    const name = key ?? ''
    const queue = this.#queues.get(name) ?? []
    this.#queues.set(name, queue)
    return queue
  }

  #event(key: string, inPlace = false): NewEvent {
    const id = `${this.#count++}`
    const now = { due: { inMs: 0 }, fingerprint: null, headers: {}, body: '{}' }
    return { id, type: 'a', address: 'a', key, ...now, ...(inPlace && { inPlace }) }
  }
}

function waiting({ id }: NewEvent): Held {
  return { id, state: 'waiting' }
}

function nameOf(number: number): string {
  return `key ${number % 3}`
}

function chosen<T>(ones: readonly T[], which: number): T | undefined {
  return ones[which % Math.max(1, ones.length)]
}

function lease({ id, attempt, key }: LeasedEvent): Pick<LeasedEvent, 'id' | 'attempt' | 'key'> {
  return { id, attempt, key }
}

function settlement(as: 'complete' | 'keep' | 'retry' | 'bury' | 'skip', event: LeasedEvent): Settlement {
  switch (as) {
    case 'complete':
      return { kind: 'complete', keepMs: 0, ...lease(event) }
    case 'keep':
      return { kind: 'complete', keepMs: 3_600_000, ...lease(event) }
    case 'retry':
      return { kind: 'retry', delayMs: 0, error: null, counted: true, ...lease(event) }
    default:
      return { kind: 'bury', error: 'x', skip: as === 'skip', ...lease(event) }
  }
}
