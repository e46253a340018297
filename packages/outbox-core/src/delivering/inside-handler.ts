import { AsyncLocalStorage } from 'node:async_hooks'
import type { Attempt } from './attempt.ts'

const inside = new AsyncLocalStorage<Attempt>()

/** Runs a handler so that the code in it can be told from other code. */
export function insideHandler<R>(attempt: Attempt, handler: () => R): R {
  return inside.run(attempt, handler)
}

/** The attempt whose handler the caller is a part of, or has been left behind by. */
export function attemptAround(): Attempt | undefined {
  return inside.getStore()
}
