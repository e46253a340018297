import { systemClock } from '../clock.ts'
import { Outbox, type OutboxOptions } from '../outbox.ts'
import { InMemoryStorage } from './storage.ts'
import type { InMemoryTransaction } from './transactions.ts'

export { OutboxSagaStore as InMemorySagaStore } from '../claims/saga-store.ts'

/**
 * An outbox that lives in this process's memory: for the tests of services, and as the reference that every adapter
 * is measured against. Transactions roll back, payloads expire, leases run out; nothing survives the process.
 */
export class InMemoryOutbox extends Outbox<InMemoryTransaction> {
  readonly #storage: InMemoryStorage

  constructor(options: OutboxOptions = {}) {
    const storage = new InMemoryStorage(options.clock ?? systemClock)
    super(storage, options)
    this.#storage = storage
  }

  /** Begins a transaction of your own, to be given to `enlist` and ended with `commit` or `rollback`. */
  begin(): InMemoryTransaction {
    return this.#storage.transactions.begin()
  }

  /** @throws StorageError when another transaction has changed the same events meanwhile */
  commit(tx: InMemoryTransaction): void {
    this.#storage.transactions.commit(tx)
  }

  rollback(tx: InMemoryTransaction): void {
    this.#storage.transactions.rollback(tx)
  }
}
