import { ForeignTransactionError, TransactionMissingError } from '../errors.ts'
import type { Outcome, OutcomeResult, PayloadRecord } from '../storage.ts'

/** A transaction of an InMemoryOutbox: what is written in it becomes visible at its commit, all at once. */
export class InMemoryTransaction {
  readonly #onCommit: (() => void)[] = []

  /** Calls `write` when the transaction commits: for the test's own data. It must not throw. */
  onCommit(write: () => void): void {
    this.#onCommit.push(write)
  }

  /** How much there is to do at the commit, and how to forget what came after. Called by the storage. */
  mark(): () => void {
    const { length } = this.#onCommit
    return () => {
      this.#onCommit.length = length
    }
  }

  /** Runs what `onCommit` was given. Called by the storage. */
  committed(): void {
    for (const write of this.#onCommit) write()
  }
}

/** The open transactions of one in-memory storage. */
export class MemoryTransactions {
  readonly #open = new Map<InMemoryTransaction, Outcome[]>()
  readonly #known = new WeakSet<InMemoryTransaction>()
  readonly #apply: (outcomes: readonly Outcome[]) => void

  constructor(apply: (outcomes: readonly Outcome[]) => void) {
    this.#apply = apply
  }

  begin(): InMemoryTransaction {
    const tx = new InMemoryTransaction()
    this.#open.set(tx, [])
    this.#known.add(tx)
    return tx
  }

  commit(tx: InMemoryTransaction): void {
    const outcomes = this.#buffered(tx)
    this.#open.delete(tx)
    this.#apply(outcomes)
    tx.committed()
  }

  rollback(tx: InMemoryTransaction): void {
    this.#open.delete(tx)
  }

  async run<R>(work: (tx: InMemoryTransaction) => Promise<R>): Promise<R> {
    const tx = this.begin()
    try {
      const result = await work(tx)
      this.commit(tx)
      return result
    } finally {
      this.rollback(tx)
    }
  }

  async enlist<R>(tx: InMemoryTransaction, work: (tx: InMemoryTransaction) => Promise<R>): Promise<R> {
    this.#buffered(tx)
    return work(tx)
  }

  async nested<R>(tx: InMemoryTransaction, work: () => Promise<R>): Promise<R> {
    const outcomes = this.#buffered(tx)
    const { length } = outcomes
    const forget = tx.mark()
    try {
      return await work()
    } catch (error) {
      outcomes.length = length
      forget()
      throw error
    }
  }

  /** Adds outcomes to a transaction; `results` judges them after everything the transaction already holds. */
  buffer(
    tx: InMemoryTransaction,
    outcomes: readonly Outcome[],
    results: (all: readonly Outcome[]) => readonly OutcomeResult[],
  ): readonly OutcomeResult[] {
    const before = this.#buffered(tx)
    const judged = results([...before, ...outcomes]).slice(before.length)
    before.push(...outcomes.filter((_, index) => judged[index]?.status === 'applied'))
    return judged
  }

  /** What a transaction has done to a payload so far. */
  written(tx: InMemoryTransaction, id: string): PayloadRecord | 'removed' | undefined {
    for (const { put, remove } of this.#buffered(tx).toReversed()) {
      const record = put.findLast((candidate) => candidate.id === id)
      if (record) return record
      if (remove.includes(id)) return 'removed'
    }
    return undefined
  }

  #buffered(tx: InMemoryTransaction): Outcome[] {
    const outcomes = this.#open.get(tx)
    if (outcomes) return outcomes
    if (this.#known.has(tx)) throw new TransactionMissingError('the transaction has ended; begin another one')
    throw new ForeignTransactionError(
      'the transaction belongs to another outbox; use a transaction of this one',
    )
  }
}
