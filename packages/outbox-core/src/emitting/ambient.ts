import { AsyncLocalStorage } from 'node:async_hooks'
import type { TransactionContext } from './transaction-context.ts'

/** An open transaction around some code, and the ones of other outboxes around that. */
export interface Ambient {
  /** Whose transaction it is. */
  readonly owner: { readonly storage: { readonly client: object } }
  readonly context: TransactionContext<never>
  readonly outer: Ambient | undefined
}

// One for all outboxes: each has to see the others' on the same client.
const ambient = new AsyncLocalStorage<Ambient | undefined>()

export function ambientTransactions(): Ambient | undefined {
  return ambient.getStore()
}

/** Runs `fn` inside a transaction. */
export function withinTransaction<R>(
  owner: Ambient['owner'],
  context: TransactionContext<never>,
  fn: () => R,
): R {
  return ambient.run({ owner, context, outer: ambient.getStore() }, fn)
}

/** Runs `fn` outside any transaction, of any outbox. */
export function outsideTransactions<R>(fn: () => R): R {
  return ambient.run(undefined, fn)
}
