/** What a statement may be given: text, numbers, bytes and null travel through every driver alike. */
export type PostgresParameter = string | number | Uint8Array | null

/** How one client runs statements on Postgres: all that a Postgres adapter adds. */
export interface PostgresExecutor<Tx, TxOptions> {
  /** The client, as the user gave it. */
  readonly client: object
  /** Runs one statement, with `$1`, `$2` … for its parameters, in `tx` or on its own. */
  query(text: string, parameters: readonly PostgresParameter[], tx?: Tx): Promise<readonly object[]>
  /** Throws when the client, or what is between it and the server, would lose what it is given. */
  assertUsable?(): Promise<void>
  /** Options for a transaction that may take minutes, where the client ends one earlier than that by itself. */
  readonly patient?: TxOptions
  /** The client's own transaction. */
  transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R>
  /** @throws ForeignTransactionError or TransactionMissingError unless `tx` is a transaction of the client */
  assertTransaction(tx: Tx): void
  /**
   * From now on, statements that fail in `tx` don't make the client refuse the commit; until the returned function is
   * called. Only for clients that remember every failure, also of what a savepoint has taken back.
   */
  apart?(tx: Tx): Promise<() => void>
}

/**
 * Who listens for the outbox: a connection of the user's own (a connected node-postgres `Client`, PGlite, or a postgres.js
 * `Sql`, which opens one more connection for that by itself), or a function that makes one. A `Client` that was handed
 * over stays deaf once its connection has ended. One that the function made, connected or not, is the outbox's: it ends
 * it, and makes another when its connection has ended.
 */
export type PostgresListener =
  | PostgresConnection
  | PostgresSubscriber
  | (() => PostgresConnection | PostgresSubscriber | Promise<PostgresConnection | PostgresSubscriber>)

/** The part of a node-postgres `Client` that is used to listen. */
export interface PostgresConnection {
  query(text: string): Promise<unknown>
  connect?(): Promise<unknown>
  end?(): Promise<unknown>
  on(event: 'notification', listener: (message: { channel: string }) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end', listener: () => void): unknown
  removeListener(event: 'notification', listener: (message: { channel: string }) => void): unknown
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  removeListener(event: 'end', listener: () => void): unknown
}

/** The part of postgres.js or PGlite that is used to listen. */
export interface PostgresSubscriber {
  listen(
    channel: string,
    listener: () => void,
  ): Promise<(() => Promise<void>) | { unlisten(): Promise<void> }>
}
