import type { OutboxCore } from '../emitting/outbox-core.ts'
import { errFields } from '../thrown.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin } from './deadline.ts'

/** Being woken by other processes, where the database can. */
export class Listening {
  readonly #core: OutboxCore
  readonly #deadlineMs: number
  #end: (() => Promise<void>) | undefined

  constructor(core: OutboxCore, { hardDeadlineMs }: Pick<DispatcherSettings, 'hardDeadlineMs'>) {
    this.#core = core
    this.#deadlineMs = hardDeadlineMs
  }

  /** Never rejects: without it, polling finds what others have stored. */
  async start(wake: () => void): Promise<void> {
    const { clock, logger, storage } = this.#core
    if (!storage.listen) return
    const listening = async (): Promise<(() => Promise<void>) | undefined> => storage.listen?.(wake)
    const late = (end: (() => Promise<void>) | undefined): void => void end?.().catch(() => {})
    try {
      this.#end = await answeredWithin(clock, this.#deadlineMs, listening, late)
    } catch (error) {
      logger.warn(errFields(error), 'other processes can’t wake this one; polling finds their events')
    }
  }

  /** Never rejects. */
  async stop(): Promise<void> {
    await this.#end?.().catch((error: unknown) =>
      this.#core.logger.warn(errFields(error), 'listening not ended'),
    )
  }
}
