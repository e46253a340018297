import type { SagaStoreAdapter } from 'outbox-core'

/** A store of the user's own. */
export class OwnStore implements SagaStoreAdapter {
  readonly #payloads = new Map<string, Uint8Array>()

  async initialize(): Promise<void> {}

  async put(id: string, data: Uint8Array): Promise<void> {
    this.#payloads.set(id, Uint8Array.from(data))
  }

  async get(id: string): Promise<Uint8Array | undefined> {
    return this.#payloads.get(id)
  }

  async delete(id: string): Promise<void> {
    this.#payloads.delete(id)
  }

  async cleanup(): Promise<number> {
    return 0
  }
}
