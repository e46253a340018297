import type { SagaStoreAdapter } from '../claims/saga-store.ts'
import { StorageError } from '../errors.ts'
import type { Outcome, Storage } from '../storage.ts'

/** Makes a database fail every write that holds an outcome for which `failure` has an error. */
export function failingWrites<Tx, O>(
  storage: Storage<Tx, O>,
  failure: (outcome: Outcome) => Error | undefined,
): void {
  const { write } = storage
  storage.write = async (outcomes, tx, options) => {
    for (const outcome of outcomes) {
      const error = failure(outcome)
      if (error) throw error
    }
    return write.call(storage, outcomes, tx, options)
  }
}

/** What a database says of a value that it takes at no time. */
export function refusal(): StorageError {
  return new StorageError('a value is refused', { transient: false, refused: true })
}

/** What a database says when it is away for a while. */
export function outage(): StorageError {
  return new StorageError('the database is away', { transient: true })
}

/** A saga store of the user's own, which can be taken down. */
export class OwnStore implements SagaStoreAdapter {
  down = false
  readonly payloads: Map<string, { readonly data: Uint8Array; readonly expiresAt: Date }> = new Map()

  async initialize(): Promise<void> {}

  async put(id: string, data: Uint8Array, expiresAt: Date): Promise<void> {
    this.#assertUp()
    this.payloads.set(id, { data, expiresAt })
  }

  async get(id: string): Promise<Uint8Array | undefined> {
    this.#assertUp()
    return this.payloads.get(id)?.data
  }

  async delete(id: string): Promise<void> {
    this.#assertUp()
    this.payloads.delete(id)
  }

  async cleanup(): Promise<number> {
    return 0
  }

  #assertUp(): void {
    if (this.down) throw new Error('the store is down')
  }
}
