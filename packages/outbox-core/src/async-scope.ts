import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'

// Made when the module is loaded, so that it belongs to no request.
const root = new AsyncResource('outbox')

// Until Node 24 `enterWith` writes into the resource it is called in, and would be seen by whoever comes next.
const leaks = ((): boolean => {
  const probe = new AsyncLocalStorage<true>()
  root.runInAsyncScope(() => probe.enterWith(true))
  const leaked = root.runInAsyncScope(() => probe.getStore()) === true
  probe.disable()
  return leaked
})()

/**
 * Runs `work` outside every caller's async context: what it sees of an AsyncLocalStorage, and what it leaves there with
 * `enterWith`, is nobody else's.
 */
export function outsideCallers<R>(work: () => R): R {
  if (!leaks) return root.runInAsyncScope(work)
  return root.runInAsyncScope(() => new AsyncResource('outbox')).runInAsyncScope(work)
}
