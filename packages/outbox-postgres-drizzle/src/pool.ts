/** What a node-postgres pool hands out. */
interface PoolClient {
  release(error: unknown): void
}

interface Pool {
  connect(): Promise<PoolClient>
}

/**
 * Runs a Drizzle transaction. Drizzle does not give a pool its connection back when BEGIN fails on it
 * (https://github.com/drizzle-team/drizzle-orm/issues/6241): a few connections that died, and an empty pool would
 * make everybody wait for ever.
 */
export async function givingBack<Tx, R>(
  db: object,
  work: (tx: Tx) => Promise<R>,
  transaction: (work: (tx: Tx) => Promise<R>) => Promise<R>,
): Promise<R> {
  const pool = (db as { readonly $client?: Pool }).$client
  let taken: Promise<PoolClient> | undefined
  let begun = false
  const running = intercepted(
    pool,
    (connecting) => {
      taken = connecting
    },
    () =>
      transaction((tx) => {
        begun = true
        return work(tx)
      }),
  )
  try {
    return await running
  } catch (error) {
    if (!begun) taken?.then((client) => client.release(error)).catch(() => {})
    throw error
  }
}

/** Sees which connection `start` takes; it takes one, if at all, before it first gives way. */
function intercepted<R>(
  pool: Pool | undefined,
  taken: (connecting: Promise<PoolClient>) => void,
  start: () => R,
): R {
  if (typeof pool?.connect !== 'function' || !('totalCount' in pool)) return start()
  const own = Object.getOwnPropertyDescriptor(pool, 'connect')
  const { connect } = pool
  pool.connect = (...parameters) => {
    const connecting = connect.apply(pool, parameters)
    taken(connecting)
    return connecting
  }
  try {
    return start()
  } finally {
    if (own) Object.defineProperty(pool, 'connect', own)
    else delete (pool as Partial<Pool>).connect
  }
}
