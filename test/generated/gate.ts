import type { Outcome, SagaStoreAdapter, Storage } from 'outbox-core'

/** What a worker, and whoever emits, ask of a database. */
const VERBS = ['write', 'lease', 'extend', 'getPayload', 'purge', 'listDead', 'keep', 'transaction'] as const

/** What a claim check asks of a store of the user's own. */
const STORE_VERBS = ['put', 'get', 'delete'] as const

export type Verb = (typeof VERBS)[number] | (typeof STORE_VERBS)[number]

export interface Call {
  readonly verb: Verb
  /** Of a write. */
  readonly outcomes: readonly Outcome[]
  /** Whether it is part of somebody's open transaction. */
  readonly inTransaction: boolean
}

/** Decides what becomes of each call: none may reach the database, no answer may come back. */
export interface Passage {
  through<R>(call: Call, run: () => Promise<R>): Promise<R>
}

/** A store of the user's own each of whose calls has to pass. */
export function gatedStore(store: SagaStoreAdapter, passage: Passage): SagaStoreAdapter {
  return new Proxy(store, {
    get(target, name) {
      const verb = STORE_VERBS.find((one) => one === name)
      if (!verb) return Reflect.get(target, name, target)
      return (...args: unknown[]) =>
        passage.through({ verb, outcomes: [], inTransaction: false }, async () =>
          Reflect.apply(target[verb], target, args),
        )
    },
  })
}

/** A storage each of whose calls has to pass. */
export function gated(storage: Storage<unknown>, passage: Passage): Storage<unknown> {
  return new Proxy(storage, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const call = (...args: unknown[]): unknown => Reflect.apply(value, target, args)
      const verb = VERBS.find((one) => one === name)
      if (!verb) return call
      return (...args: unknown[]) => {
        const outcomes = verb === 'write' ? (args[0] as readonly Outcome[]) : []
        const inTransaction = verb === 'write' && args[1] !== undefined
        return passage.through({ verb, outcomes, inTransaction }, async () => call(...args))
      }
    },
  })
}
