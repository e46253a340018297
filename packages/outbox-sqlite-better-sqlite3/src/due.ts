import type { LeaseRequest } from 'outbox-core'
import type { DueRow } from './statements.ts'

/** Due rows of an address after one of them, soonest first. */
type Read = (address: string, after: Place, limit: number) => readonly DueRow[]

type Place = Pick<DueRow, 'visible_at' | 'seq'>

const START: Place = { visible_at: Number.MIN_SAFE_INTEGER, seq: 0 }

/** What is due at one address, read as far as it is needed. */
class Due {
  readonly #read: (after: Place, limit: number) => readonly DueRow[]
  #chunk: number
  #left: number
  #rows: readonly DueRow[] = []
  #next = 0
  #ended = false

  constructor(read: (after: Place, limit: number) => readonly DueRow[], share: number, chunk: number) {
    this.#read = read
    this.#left = share
    this.#chunk = chunk
  }

  get soonest(): DueRow | undefined {
    if (this.#next === this.#rows.length && !this.#ended) this.#readOn()
    return this.#rows[this.#next]
  }

  drop(): void {
    this.#next++
  }

  #readOn(): void {
    const limit = Math.min(this.#chunk, this.#left)
    this.#rows = this.#read(this.#rows.at(-1) ?? START, limit)
    this.#next = 0
    this.#left -= this.#rows.length
    // Where others have nothing, it has more to give than its part.
    this.#chunk *= 2
    this.#ended = this.#rows.length < limit || this.#left === 0
  }
}

/** The soonest due rows of all addresses; hardly more are read than are returned. */
export function dueRows(read: Read, { addresses, limit }: Omit<LeaseRequest, 'leaseMs'>): readonly DueRow[] {
  const chunk = Math.ceil(limit / addresses.length)
  const queues = addresses.map(
    ({ address, limit: share }) => new Due((after, most) => read(address, after, most), share, chunk),
  )
  const rows: DueRow[] = []
  while (rows.length < limit) {
    const soonest = soonestOf(queues)
    if (!soonest?.soonest) break
    rows.push(soonest.soonest)
    soonest.drop()
  }
  return rows
}

function soonestOf(queues: readonly Due[]): Due | undefined {
  let found: Due | undefined
  for (const queue of queues) {
    const row = queue.soonest
    const best = found?.soonest
    if (
      row &&
      (!best ||
        row.visible_at < best.visible_at ||
        (row.visible_at === best.visible_at && row.seq < best.seq))
    )
      found = queue
  }
  return found
}
