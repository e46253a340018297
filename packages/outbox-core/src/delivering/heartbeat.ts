import type { Clock } from '../clock.ts'
import { LeaseLostError, toError } from '../errors.ts'
import { errorFields, type Logger } from '../logger.ts'
import type { Outbox } from '../outbox.ts'
import type { Delivery } from './delivery.ts'

const BATCH = 500

/** Keeps the leases of what is still being worked on, and tells handlers whose lease is gone. */
export class Heartbeat {
  readonly #outbox: Outbox
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #everyMs: number
  readonly #leaseMs: number
  readonly #held: () => Iterable<Delivery>
  #cancel: (() => void) | undefined
  #beating: Promise<void> = Promise.resolve()

  constructor(outbox: Outbox, timing: { everyMs: number; leaseMs: number }, held: () => Iterable<Delivery>) {
    this.#outbox = outbox
    this.#clock = outbox.clock
    this.#logger = outbox.logger
    this.#everyMs = timing.everyMs
    this.#leaseMs = timing.leaseMs
    this.#held = held
  }

  start(): void {
    this.#cancel = this.#clock.after(this.#everyMs, () => {
      this.#beating = this.#beat().then(() => {
        if (this.#cancel) this.start()
      })
    })
  }

  async stop(): Promise<void> {
    this.#cancel?.()
    this.#cancel = undefined
    await this.#beating
  }

  async #beat(): Promise<void> {
    const stale = this.#stale()
    for (let from = 0; from < stale.length; from += BATCH) await this.#extend(stale.slice(from, from + BATCH))
  }

  /** What has a lease that is not fresh, the latest of each event: a worker can lease again what it has lost. */
  #stale(): readonly Delivery[] {
    const since = this.#clock.elapsed() - this.#everyMs / 2
    const stale = new Map<string, Delivery>()
    for (const delivery of this.#held()) {
      if (delivery.leasedAt > since) continue
      stale.get(delivery.id)?.abort(leaseLost())
      stale.set(delivery.id, delivery)
    }
    return [...stale.values()]
  }

  async #extend(deliveries: readonly Delivery[]): Promise<void> {
    const now = this.#clock.elapsed()
    try {
      const lost = new Set(
        await this.#outbox.storage.extend(
          deliveries.map(({ leased }) => leased),
          this.#leaseMs,
        ),
      )
      for (const delivery of deliveries) {
        if (lost.has(delivery.id)) delivery.abort(leaseLost())
        else delivery.leasedAt = now
      }
    } catch (error) {
      this.#logger.warn({ error: errorFields(toError(error)) }, 'heartbeat failed, will repeat')
    }
  }
}

function leaseLost(): LeaseLostError {
  return new LeaseLostError('the lease ran out and was taken again')
}
