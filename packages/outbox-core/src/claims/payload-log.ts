import type { Logger } from '../logger.ts'
import type { Outcome, OutcomeResult, Purged } from '../storage.ts'
import { errFields } from '../thrown.ts'

/** The payload that a log line is about. */
export interface PayloadSubject {
  readonly routingSlipId: string | undefined
  readonly claimId: string
  readonly bytes?: number
}

/** The one place that logs what happens to payloads: who, which claim, how many bytes, how long; never the bytes. */
export class PayloadLog {
  readonly #logger: Logger

  constructor(logger: Logger) {
    this.#logger = logger
  }

  write(
    outcomes: readonly Outcome[],
    write: () => Promise<readonly OutcomeResult[]>,
  ): Promise<readonly OutcomeResult[]> {
    return outcomes.some(({ put, remove }) => put.length + remove.length > 0)
      ? this.#logged(outcomes, write)
      : write()
  }

  async #logged(
    outcomes: readonly Outcome[],
    write: () => Promise<readonly OutcomeResult[]>,
  ): Promise<readonly OutcomeResult[]> {
    const started = performance.now()
    try {
      const results = await write()
      this.#written(outcomes, results, started)
      return results
    } catch (error) {
      this.#failed(outcomes, error)
      throw error
    }
  }

  async read(
    subject: PayloadSubject,
    read: () => Promise<Uint8Array | undefined>,
  ): Promise<Uint8Array | undefined> {
    const started = performance.now()
    const data = await this.failing('get', subject, read)
    const fields = { ...subject, bytes: data?.byteLength, durationMs: since(started) }
    this.#logger.debug(fields, data ? 'payload get' : 'payload get: missing or expired')
    return data
  }

  /** A put or a delete that is no part of an outbox's write. */
  async apart(what: 'put' | 'delete', subject: PayloadSubject, work: () => Promise<void>): Promise<void> {
    const started = performance.now()
    await this.failing(what, subject, work)
    this.#logger.debug({ ...subject, durationMs: since(started) }, `payload ${what}`)
  }

  /** Logs why `work` failed; that it went well is logged with what it is a part of. */
  failing<R>(what: 'put' | 'get' | 'delete', subject: PayloadSubject, work: () => R): R {
    const failed = (error: unknown): never => {
      this.#logger.error({ ...subject, ...errFields(error) }, `payload ${what} failed`)
      throw error
    }
    try {
      const result = work()
      return result instanceof Promise ? (result.catch(failed) as R) : result
    } catch (error) {
      return failed(error)
    }
  }

  async purge(purge: () => Promise<Purged>): Promise<Purged> {
    const started = performance.now()
    try {
      const purged = await purge()
      this.#logger.debug({ ...purged, durationMs: since(started) }, 'cleanup')
      return purged
    } catch (error) {
      this.#logger.error(errFields(error), 'cleanup failed')
      throw error
    }
  }

  #written(outcomes: readonly Outcome[], results: readonly OutcomeResult[], started: number): void {
    for (const [index, { put, remove, routingSlipId }] of outcomes.entries()) {
      if (put.length + remove.length === 0 || results[index]?.status !== 'applied') continue
      const durationMs = since(started)
      for (const { id, data } of put) {
        this.#logger.debug({ routingSlipId, claimId: id, bytes: data.byteLength, durationMs }, 'payload put')
      }
      for (const claimId of remove)
        this.#logger.debug({ routingSlipId, claimId, durationMs }, 'payload delete')
    }
  }

  #failed(outcomes: readonly Outcome[], error: unknown): void {
    const fields = errFields(error)
    for (const { put, remove, routingSlipId } of outcomes) {
      for (const { id, data } of put) {
        this.#logger.error(
          { routingSlipId, claimId: id, bytes: data.byteLength, ...fields },
          'payload put failed',
        )
      }
      for (const claimId of remove)
        this.#logger.error({ routingSlipId, claimId, ...fields }, 'payload delete failed')
    }
  }
}

function since(started: number): number {
  return Math.round((performance.now() - started) * 1000) / 1000
}
