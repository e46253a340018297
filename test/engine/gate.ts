import type { Outcome, Storage } from 'outbox-core'
import type { Book } from './book.ts'

/** What a worker asks of its database. */
export interface Call<R> {
  readonly verb: keyof Storage<unknown>
  /** Of a write. */
  readonly outcomes: readonly Outcome[]
  run(): Promise<R>
}

/** Decides what becomes of each of a worker's calls: none may reach the database, no answer may come back. */
export interface Passage {
  through<R>(call: Call<R>): Promise<R>
}

/** Stands between one worker and the database: every call passes, and is written into the book. */
export function gate(storage: Storage<unknown>, book: Book, passage: Passage): Storage<unknown> {
  const pass = <R>(
    verb: Call<R>['verb'],
    run: () => Promise<R>,
    outcomes: readonly Outcome[] = [],
  ): Promise<R> => {
    book.happened++
    return passage.through({ verb, outcomes, run })
  }
  return {
    limits: storage.limits,
    client: storage.client,
    writesTogether: storage.writesTogether,
    initialize: () => storage.initialize(),
    transaction: (work) => storage.transaction(work),
    enlist: (tx, work) => storage.enlist(tx, work),
    write: (outcomes, tx, options) =>
      pass(
        'write',
        async () => {
          const results = await storage.write(outcomes, tx, options)
          book.wrote(outcomes, results)
          return results
        },
        outcomes,
      ),
    lease: (request) =>
      pass('lease', async () => {
        const events = await storage.lease(request)
        book.leased(events)
        return events
      }),
    waiting: () => storage.waiting(),
    extend: (leases, leaseMs) => pass('extend', () => storage.extend(leases, leaseMs)),
    keep: (id, keepMs) => pass('keep', () => storage.keep(id, keepMs)),
    getPayload: (id, tx) => pass('getPayload', () => storage.getPayload(id, tx)),
    purge: (limit) => storage.purge(limit),
    listDead: (query, tx) => storage.listDead(query, tx),
    stats: (tx) => storage.stats(tx),
    close: () => storage.close(),
  }
}

/** What a dead process answers. */
export function never(): Promise<never> {
  return new Promise(() => {})
}
