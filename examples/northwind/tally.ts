import type { EventDraft, Logger, Middleware } from 'outbox-core'

/** Counts events and payload bytes of this run, by what the outbox logs and by a middleware of its own. */
export class Tally implements Middleware {
  events = 0
  payloads = 0
  rawBytes = 0
  storedBytes = 0
  readonly #threshold: number
  readonly logger: Logger = {
    debug: (fields, message) => {
      if (message !== 'payload put') return
      this.payloads++
      this.storedBytes += (fields as { bytes: number }).bytes
    },
    info: () => {},
    warn: (fields, message) => console.error(message, fields),
    error: (fields, message) => console.error(message, fields),
  }

  /** @param threshold payloads with more bytes than this go to the saga store */
  constructor(threshold: number) {
    this.#threshold = threshold
  }

  emit(draft: EventDraft): void {
    this.events++
    const bytes = Buffer.byteLength(JSON.stringify(draft.payload))
    if (bytes > this.#threshold) this.rawBytes += bytes
  }
}
