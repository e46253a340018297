import type { BusOptions } from 'outbox-core'
import type { AdapterName } from './adapters/index.ts'
import type { Fatality, Stalling } from './points.ts'

export type Role = 'emit' | 'work' | 'poison' | 'drain' | 'order-emit' | 'order-work'

/** What a process of the tests is to do; its one argument, as JSON. */
export interface ProcessSettings {
  readonly role: Role
  readonly adapter: AdapterName
  readonly url: string
  readonly place: string
  readonly ledger: string
  /** Number of the first slip, or of the first round. */
  readonly first?: number
  /** Transactions, if it ends by itself. */
  readonly many?: number
  readonly bus?: Pick<BusOptions, 'lease' | 'concurrency' | 'batchSize'>
  /** Where it kills itself. */
  readonly fatality?: Fatality
  /** What its first activity of each round does. */
  readonly stall?: Stalling
}
