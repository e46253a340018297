import { setTimeout as sleep } from 'node:timers/promises'
import { type Outbox, OutboxError, OutboxEventBus } from 'outbox-core'
import type { Opened } from './adapters/adapter.ts'
import type { Ledger } from './ledger.ts'

type Note = (line: string) => void

/** Transactions of one process that are open at the same time. */
const LANES = 4

// Of a number of keys that makes transactions meet, and different ones overlap.
const KEYS = 20

const ONCE_MORE = 0.05

interface Ordered extends Record<'ordered.a' | 'ordered.b', { id: string }> {}

/** Emits so many times into random keys, in transactions that overlap at random. */
export async function emitOrdered(
  { outbox, write }: Opened,
  note: Note,
  { first, many }: { readonly first: number; readonly many: number },
): Promise<void> {
  const bus = new OutboxEventBus<Ordered>(outbox)
  let number = first
  const lane = async (): Promise<void> => {
    while (number < first + many) {
      const id = `${number++}`
      const keys = Array.from({ length: 1 + below(2) }, () => `key-${below(KEYS)}`)
      note(`begun ${id} ${[...new Set(keys)].join(' ')}`)
      try {
        await outbox.transaction(async (tx) => {
          if (Math.random() < 0.5) await write(tx, id)
          for (const key of new Set(keys))
            await bus.emit(oneOf('ordered.a', 'ordered.b'), { id }, { key, headers: { key } })
          if (Math.random() < 0.3) await sleep(below(5))
        })
        note(`acknowledged ${id}`)
      } catch (error) {
        // Two transactions that wait for each other, or met in one key: whoever is told so begins another one.
        if (!(error instanceof OutboxError) && !isFromDriver(error)) throw error
        note(`refused ${id}`)
      }
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  note(`done ${process.pid}`)
}

/** A worker that is slow at times, and fails at times. */
export function workOrdered(outbox: Outbox, note: Note): OutboxEventBus<Ordered> {
  const bus = new OutboxEventBus<Ordered>(outbox, {
    ...{ lease: '2s', poll: { max: 50 }, concurrency: 10 },
    retry: { maxAttempts: 1_000, delay: 5, maxDelay: 20 },
  })
  bus.on(['ordered.a', 'ordered.b'], async ({ id: event, payload: { id }, ...rest }) => {
    const key = keyOf(rest)
    note(`entered ${key} ${id} ${process.pid} ${event}`)
    if (Math.random() < 0.3) await sleep(below(5))
    const fails = Math.random() < ONCE_MORE
    note(`${fails ? 'failed' : 'handled'} ${key} ${id} ${process.pid} ${event}`)
    if (fails) throw new Error('once more')
  })
  return bus
}

function isFromDriver(error: unknown): boolean {
  return error instanceof Error
}

function keyOf({ headers }: { headers: Readonly<Record<string, string>> }): string {
  return headers['key'] ?? ''
}

function below(limit: number): number {
  return Math.floor(Math.random() * limit)
}

function oneOf<T>(...of: readonly T[]): T {
  return of[below(of.length)] as T
}

export interface Findings {
  readonly events: number
  readonly lost: readonly string[]
  readonly inversions: readonly string[]
  readonly sideBySide: readonly string[]
}

interface Handled {
  readonly id: string
  /** Lines of the ledger: one writer after the other, so they are moments. */
  readonly begun: number
  readonly acknowledged: number
  entered: number
  handled: number
}

/** What the ledger says of the order in which events were handled. A line that comes after another was written after it. */
export function findings(ledger: Ledger): Findings {
  const events = new Map<string, Handled & { key: string }>()
  const begun = new Map<string, { at: number; keys: string[] }>()
  const running = new Map<string, { pid: string; what: string }>()
  const killed = new Set(ledger.noted('killed'))
  const sideBySide: string[] = []
  for (const [at, line] of ledger.lines().entries()) {
    const [what, ...words] = line.split(' ')
    const [first = '', second = '', pid = ''] = words
    if (what === 'begun') begun.set(first, { at, keys: words.slice(1) })
    if (what === 'acknowledged') {
      for (const key of begun.get(first)?.keys ?? [])
        events.set(`${key} ${first}`, {
          ...{ id: first, key, begun: begun.get(first)?.at ?? 0, acknowledged: at },
          ...{ entered: Number.POSITIVE_INFINITY, handled: Number.POSITIVE_INFINITY },
        })
    }
    if (what === 'entered') {
      const other = running.get(first)
      if (other && !killed.has(other.pid)) sideBySide.push(`${line} while ${other.what}`)
      running.set(first, { pid, what: line })
    }
    if (what === 'handled' || what === 'failed') running.delete(first)
    void second
  }
  noteHandling(ledger, events)
  const lost = [...events].filter(([, { handled }]) => handled === Number.POSITIVE_INFINITY)
  return {
    events: events.size,
    lost: lost.map(([name]) => name),
    inversions: inversions([...events.values()]),
    sideBySide,
  }
}

function noteHandling(ledger: Ledger, events: ReadonlyMap<string, Handled>): void {
  for (const [at, line] of ledger.lines().entries()) {
    const [what, key, id] = line.split(' ')
    const event = events.get(`${key} ${id}`)
    if (!event) continue
    if (what === 'entered') event.entered = Math.min(event.entered, at)
    if (what === 'handled') event.handled = Math.min(event.handled, at)
  }
}

/** Events that began to be handled before one of their key was done that had been committed before they were begun. */
function inversions(events: readonly (Handled & { key: string })[]): string[] {
  const byKey = Map.groupBy(events, ({ key }) => key)
  return [...byKey.values()].flatMap((ofKey) => {
    const committed = ofKey.toSorted((one, other) => one.acknowledged - other.acknowledged)
    const found: string[] = []
    let latest: (Handled & { key: string }) | undefined
    let next = 0
    for (const event of ofKey.toSorted((one, other) => one.begun - other.begun)) {
      for (; (committed[next]?.acknowledged ?? Number.POSITIVE_INFINITY) < event.begun; next++) {
        const before = committed[next] as Handled & { key: string }
        if (!latest || before.handled > latest.handled) latest = before
      }
      if (latest && event.entered < latest.handled)
        found.push(`${event.key}: ${event.id} was entered before ${latest.id} was handled`)
    }
    return found
  })
}
