import type { Outbox, OutboxOptions } from 'outbox-core'
import type { DriverFaults } from './driver-faults.ts'

/** An open event, known by its headers. */
export interface OpenEvent {
  /** The slip it belongs to. */
  readonly slip: string | undefined
  /** The claim it carries. */
  readonly claim: string | undefined
  /** What a test named it. */
  readonly key: string | undefined
}

/** What lies in a place, read with the raw client. */
export interface Contents {
  /** Keys of the user's own rows. */
  readonly rows: readonly string[]
  readonly events: readonly OpenEvent[]
  readonly dead: number
  /** Claim ids. */
  readonly payloads: readonly string[]
}

/** One client of a process that may be killed at any moment, and the outbox on it. */
export interface Opened {
  readonly outbox: Outbox
  /** Creates the place: the outbox's tables and the user's own. */
  prepare(): Promise<void>
  /** Writes one row of the user's own through the transaction handle. */
  write(tx: unknown, key: string): unknown
  contents(): Promise<Contents>
  /** Whether a process holds the database's one lock; absent where there is no such thing. */
  isLocked?(): boolean
  close(): Promise<void>
}

export interface OpenOptions extends OutboxOptions {
  /** Connections of a client that has several. @default 4 */
  readonly poolSize?: number
  /** Gives up on a server that has not answered for a second. @default false, as drivers do */
  readonly impatient?: boolean
  /** What goes wrong in the driver. */
  readonly faults?: DriverFaults
}

export const PATIENCE_MS = 1_000

/** Opens a client of its own on a place: a file, a schema, a key prefix, a database, a pair of tables. */
export type Open = (url: string, place: string, options?: OpenOptions) => Promise<Opened>

export function headersOf(json: unknown): OpenEvent {
  const headers = JSON.parse(String(json)) as Record<string, string>
  return { slip: headers['outbox-slip'], claim: headers['outbox-claim'], key: headers['key'] }
}
