import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'

const inside = new AsyncLocalStorage<object>()

// Until Node 24 `enterWith` writes into the resource it is called in, and would be seen by whoever comes next.
const leaks = ((): boolean => {
  const probe = new AsyncLocalStorage<true>()
  const resource = new AsyncResource('outbox')
  resource.runInAsyncScope(() => probe.enterWith(true))
  const leaked = resource.runInAsyncScope(() => probe.getStore()) === true
  probe.disable()
  return leaked
})()

/**
 * Code that belongs to no caller: what it sees of an AsyncLocalStorage, and what it leaves there with `enterWith`, is
 * nobody else's.
 */
export class AsyncScope {
  readonly #resource: AsyncResource

  /** @param owner whom `scopeOwner` names inside; made in the scope of `from`, or where this is called */
  constructor(owner: object, from?: AsyncScope) {
    const make = (): AsyncResource => inside.run(owner, () => new AsyncResource('outbox'))
    this.#resource = from ? from.run(make) : make()
  }

  run<R>(work: () => R): R {
    if (!leaks) return this.#resource.runInAsyncScope(work)
    return this.#resource.runInAsyncScope(() => new AsyncResource('outbox')).runInAsyncScope(work)
  }
}

// Made when the module is loaded, so that it belongs to no request.
export const outsideCallers: AsyncScope = new AsyncScope({})

/** Whose scope the caller is in. */
export function scopeOwner(): object | undefined {
  return inside.getStore()
}
