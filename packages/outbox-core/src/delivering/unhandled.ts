import type { OutboxCore } from '../emitting/outbox-core.ts'
import type { Waiting } from '../storage.ts'
import type { DispatcherSettings } from './bus-options.ts'
import type { Leasing } from './leasing.ts'
import { LEAST_ACQUAINTANCE_MS } from './patience.ts'
import type { Registrations } from './registrations.ts'

// A worker that has just been stopped, or is about to come, is no reason to say anything.
const NOTICED_AFTER_MS = 10_000

const MOST_KNOWN = 1000

type Settings = Pick<DispatcherSettings, 'deferForMs' | 'minPollMs'>

/** What this process knows of an address that it does not handle. */
interface Known {
  /** Since when nobody has been seen to take anything there, by the clock's `elapsed`. */
  readonly since: number
  /** When the oldest event there became due, by the same clock; undefined once this process has taken some itself. */
  readonly oldestAt: number | undefined
  readonly isTold: boolean
}

/**
 * Looks after events that wait for a handler which no worker has: says so once for each address, and has them buried when
 * they have waited for too long, and nobody has taken any for some minutes. What somebody takes, however slowly, is his.
 */
export class Unhandled {
  readonly #core: OutboxCore
  readonly #registrations: Registrations
  readonly #settings: Settings
  readonly #leasing: Pick<Leasing, 'waiting' | 'at'>
  readonly #known = new Map<string, Known>()
  #running = false
  #cancel: (() => void) | undefined
  #looking: Promise<void> = Promise.resolve()

  constructor(
    core: OutboxCore,
    registrations: Registrations,
    settings: Settings,
    leasing: Pick<Leasing, 'waiting' | 'at'>,
  ) {
    this.#core = core
    this.#registrations = registrations
    this.#settings = settings
    this.#leasing = leasing
  }

  start(): void {
    this.#running = true
    const { deferForMs, minPollMs } = this.#settings
    const pause = Math.max(minPollMs, Math.min(NOTICED_AFTER_MS, deferForMs / 2))
    this.#cancel = this.#core.clock.after(pause, () => {
      this.#looking = this.#look().then(() => {
        if (this.#running) this.start()
      })
    })
  }

  async stop(): Promise<void> {
    this.#running = false
    this.#cancel?.()
    await this.#looking
  }

  async #look(): Promise<void> {
    try {
      const waiting = await this.#leasing.waiting()
      const unhandled = waiting.filter((one) => this.#isUnhandled(one))
      const addresses = new Set(unhandled.map(({ address }) => address))
      for (const address of this.#known.keys()) if (!addresses.has(address)) this.#known.delete(address)
      for (const one of unhandled) await this.#lookAfter(one)
    } catch {
      // Whatever is wrong with the database is told by those who need it more often.
    }
  }

  #isUnhandled({ address, oldestDueMs }: Waiting): boolean {
    const { deferForMs } = this.#settings
    return oldestDueMs >= Math.min(NOTICED_AFTER_MS, deferForMs) && !this.#registrations.has(address)
  }

  async #lookAfter({ address, oldestDueMs }: Waiting): Promise<void> {
    const now = this.#core.clock.elapsed()
    const oldestAt = now - oldestDueMs
    const known = this.#known.get(address)
    if (!known || isTakenFrom(known, oldestAt)) {
      this.#know(address, { since: now, oldestAt, isTold: known?.isTold ?? false })
      return
    }
    if (!known.isTold) this.#tell(address, oldestDueMs)
    this.#know(address, { ...known, oldestAt, isTold: true })
    const { deferForMs } = this.#settings
    if (oldestDueMs < deferForMs || now - known.since < Math.min(deferForMs, LEAST_ACQUAINTANCE_MS)) return
    // Taken without a handler, it is buried.
    await this.#leasing.at(address)
    this.#know(address, { ...known, oldestAt: undefined, isTold: true })
  }

  #know(address: string, known: Known): void {
    if (this.#known.has(address) || this.#known.size < MOST_KNOWN) this.#known.set(address, known)
  }

  #tell(address: string, oldestDueMs: number): void {
    const { deferForMs } = this.#settings
    this.#core.logger.warn(
      { address, oldestDueMs, deferForMs },
      'events wait for a handler, and no worker takes them: dead letters once they have waited for deferFor',
    )
  }
}

// The database's clock and this process's go a little differently.
const TOLERANCE_MS = 50

/** Whether somebody has taken the oldest event that was there. */
function isTakenFrom({ oldestAt }: Known, now: number): boolean {
  return oldestAt !== undefined && now > oldestAt + TOLERANCE_MS
}
