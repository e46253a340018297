import { NestedTransactionError, OutboxEventBus, TransactionClosedError } from 'outbox-core'
import { expect } from 'vitest'
import type { Opened } from './adapters/adapter.ts'
import { randomFrom } from './random.ts'
import { scenario } from './scenario.ts'

/** What a transaction has written, if it commits. */
interface Written {
  readonly rows: string[]
  readonly events: string[]
  readonly payloads: string[]
  /** Whether a part of it has failed that its database can't take back alone. */
  doomed: boolean
}

const NOTHING = (): Written => ({ rows: [], events: [], payloads: [], doomed: false })

const COMPARISONS = 20
const large = 'p'.repeat(300)

scenario('transactions at random', { short: 1_000, long: 100_000 }, async ({ open }, { amount, random }) => {
  const opened = await open({ poolSize: 1 })
  const committed = NOTHING()
  const compareEvery = Math.ceil(amount / COMPARISONS)
  let late = 0
  for (let program = 0; program < amount; program++) {
    const seed = Math.floor(random() * 2 ** 31)
    const written = await run(new Program(opened, seed, `${program}`))
    for (const part of ['rows', 'events', 'payloads'] as const) committed[part].push(...written[part])
    late += written.late
    if (program % compareEvery === compareEvery - 1 || program === amount - 1) {
      const { rows, events, payloads } = await opened.contents()
      const stored = { rows, events: events.map(({ key }) => key ?? ''), payloads }
      for (const part of ['rows', 'events', 'payloads'] as const)
        expect(stored[part].toSorted(), `program ${program}, seed ${seed}`).toEqual(
          committed[part].toSorted(),
        )
    }
  }
  return {
    programs: amount,
    committed: committed.rows.length + committed.events.length,
    'late uses refused': late,
  }
})

/** Some transactions of one program side by side, on one client. */
async function run(program: Program): Promise<Omit<Written, 'doomed'> & { late: number }> {
  const transactions = Array.from({ length: 1 + program.below(3) }, (_, index) =>
    program.transaction(`${index}`),
  )
  const written = await Promise.all(transactions)
  for (const use of program.late) expect(await failure(use())).toBeInstanceOf(TransactionClosedError)
  const all = written.flatMap((one) => one ?? [])
  return {
    rows: all.flatMap(({ rows }) => rows),
    events: all.flatMap(({ events }) => events),
    payloads: all.flatMap(({ payloads }) => payloads),
    late: program.late.length,
  }
}

// What `expect(…).rejects` looked at stays in memory until the test ends: gigabytes, with so many.
function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

class Program {
  /** What transactions left behind that must no longer work. */
  readonly late: (() => Promise<unknown>)[] = []
  readonly #opened: Opened
  readonly #bus: OutboxEventBus
  readonly #random: () => number
  readonly #name: string
  #names = 0

  constructor(opened: Opened, seed: number, name: string) {
    this.#opened = opened
    this.#bus = new OutboxEventBus(opened.outbox)
    this.#random = randomFrom(seed)
    this.#name = name
  }

  below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }

  /** What it has written, undefined when it was rolled back. */
  async transaction(name: string): Promise<Written | undefined> {
    const written = NOTHING()
    const fails = this.below(4) === 0
    const rollback = new Error(`rollback ${name}`)
    try {
      await this.#opened.outbox.transaction(async (tx) => {
        await this.#steps(tx, written, 0)
        if (this.below(4) === 0) {
          // Forgotten to be awaited: the end of the transaction waits for it.
          written.events.push(`${name}-${this.#name}`)
          void this.#emit(`${name}-${this.#name}`)
        }
        if (this.below(8) === 0)
          this.late.push(() =>
            this.#opened.outbox
              .sagaStore('1d')
              .put('late', new Uint8Array(1), undefined, { transaction: tx }),
          )
        if (fails) throw rollback
      })
      expect(written.doomed).toBe(false)
      return written
    } catch (error) {
      if (error === rollback || (written.doomed && error instanceof NestedTransactionError)) return undefined
      throw error
    }
  }

  async #steps(tx: unknown, written: Written, depth: number): Promise<void> {
    for (let steps = this.below(4); steps >= 0; steps--) await this.#step(tx, written, depth)
  }

  async #step(tx: unknown, written: Written, depth: number): Promise<void> {
    const key = `${this.#name}-${this.#names++}`
    switch (this.below(depth < 2 ? 6 : 5)) {
      case 0:
        written.rows.push(key)
        await this.#opened.write(tx, key)
        return
      case 1:
        written.events.push(key)
        await this.#emit(key)
        return
      case 2:
        written.payloads.push(key)
        await this.#opened.outbox.sagaStore('1d').put(key, Buffer.from(large))
        return
      case 3: {
        const keys = [`${key}a`, `${key}b`]
        written.events.push(...keys)
        await Promise.all(keys.map((one) => this.#emit(one)))
        return
      }
      case 4:
        expect(String(await failure(this.#bus.emit('test', 1n)))).toContain('BigInt')
        return
      default:
        await this.#nested(written, depth)
    }
  }

  #emit(key: string): Promise<string> {
    return this.#bus.emit('test', large, { headers: { key }, delay: '1h' })
  }

  /** A part of the outer transaction, which goes on without what a failed one wrote; or can't commit any more. */
  async #nested(outer: Written, depth: number): Promise<void> {
    const fails = this.below(3) === 0
    const inner = NOTHING()
    const nested = this.#opened.outbox.transaction(async (tx) => {
      await this.#steps(tx, inner, depth + 1)
      if (fails) throw new Error('nested')
    })
    const thrown = await failure(nested)
    if (!fails && !inner.doomed) {
      expect(thrown).toBeUndefined()
      for (const part of ['rows', 'events', 'payloads'] as const) outer[part].push(...inner[part])
      return
    }
    if (fails) expect(String(thrown)).toContain('nested')
    else expect(thrown).toBeInstanceOf(NestedTransactionError)
    outer.doomed ||= !this.#opened.outbox.storage.nested
  }
}
