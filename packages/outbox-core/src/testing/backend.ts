import type { Outbox, OutboxOptions } from '../outbox.ts'

/** One database under test: how to open a fresh, empty place in it, and how to look at it behind our back. */
export interface Backend<Tx, TxOptions = never> {
  /** Shown in test names. */
  readonly name: string
  /** Opens a new, empty, initialized place that no other test sees: tables, prefix or database of its own. */
  open(options?: OutboxOptions): Promise<Place<Tx, TxOptions>>
  /** What the database can't do, so that the suite asks for the documented behaviour instead. */
  readonly traits?: BackendTraits
}

export interface BackendTraits {
  /** Writes inside a transaction are collected and sent at commit (Redis, DynamoDB): errors appear there. */
  readonly collectsWrites?: boolean
  /** The place lives in this process only: there is no second client (in-memory databases). */
  readonly singleClient?: boolean
  /** An open transaction that has written something keeps every other writer waiting. */
  readonly oneWriter?: boolean
}

/** One place of a backend, with the raw client beside the outbox. */
export interface Place<Tx, TxOptions = never> {
  readonly outbox: Outbox<Tx, TxOptions>
  /** Another outbox on the same place with a client of its own, as a second process would have. */
  sibling(options?: OutboxOptions): Promise<Outbox<Tx, TxOptions>>
  /** Writes one row of the user's own through the transaction handle, as a user would. */
  writeBusinessRow(tx: Tx, key: string): Promise<void> | void
  /** Keys of the user's own rows, read with the raw client outside any transaction. */
  businessRows(): Promise<readonly string[]>
  /** Opens a transaction the way a user does without our help, commits when `work` resolves, else rolls back. */
  ownTransaction(work: (tx: Tx) => Promise<void>): Promise<void>
  /** Every event in the place, read with the raw client. */
  events(): Promise<readonly RawEvent[]>
  /** Every payload in the place, expired ones included where the database still has them. */
  payloads(): Promise<readonly RawPayload[]>
  /** Replaces a payload's stored bytes behind our back. */
  overwritePayload(id: string, data: Uint8Array): Promise<void>
  /** Moves a payload's expiry into the past behind our back, without letting the database delete it if it can be helped. */
  expirePayload(id: string): Promise<void>
  /** Makes every lease of the place run out now, behind our back: as if its time had passed. */
  expireLeases(): Promise<void>
  /** Round trips (statements, commands, requests) the outbox's client has made so far. */
  roundTrips(): number
  /** Open connections of the outbox's client to the server, counted by the server; 0 where there is no server. */
  connections(): Promise<number>
  /** Drops the place and closes every client it opened. */
  destroy(): Promise<void>
}

export interface RawEvent {
  readonly id: string
  readonly type: string
  readonly body: string
  readonly headers: Readonly<Record<string, string>>
  readonly state: 'waiting' | 'leased' | 'done' | 'dead' | 'blocked'
  readonly attempt: number
}

export interface RawPayload {
  readonly id: string
  readonly data: Uint8Array
  /** Milliseconds since the epoch, as exactly as the database keeps it. */
  readonly expiresAt: number
}
