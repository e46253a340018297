/** What a statement may be given: text, numbers, bytes and null travel through every driver alike. */
export type PostgresParameter = string | number | Uint8Array | null

/** How one client runs statements on Postgres: all that a Postgres adapter adds. */
export interface PostgresExecutor<Tx, TxOptions> {
  /** The client, as the user gave it. */
  readonly client: object
  /** Runs one statement, with `$1`, `$2` … for its parameters, in `tx` or on its own. */
  query(text: string, parameters: readonly PostgresParameter[], tx?: Tx): Promise<readonly object[]>
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
 * A connection of the user's own that listens: a connected node-postgres `Client`, PGlite, or a postgres.js `Sql`, which
 * opens one more connection for that by itself.
 */
export type PostgresListener =
  | {
      query(text: string): Promise<unknown>
      on(event: 'notification', listener: (message: { channel: string }) => void): unknown
      removeListener(event: 'notification', listener: (message: { channel: string }) => void): unknown
    }
  | { listen(channel: string, listener: () => void): Promise<Unlisten | { unlisten(): Promise<void> }> }

type Unlisten = () => Promise<void>
