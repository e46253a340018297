import type { Socket } from 'node:net'
import pg from 'pg'
import { type Contents, headersOf, PATIENCE_MS } from './adapter.ts'
import type { DriverFaults } from './driver-faults.ts'

interface Settings {
  readonly poolSize?: number | undefined
  readonly impatient?: boolean | undefined
  readonly faults?: DriverFaults | undefined
}

/** A pool as a careful user makes it: a connection that dies, in it or in a transaction, does not end the process. */
export function createPool(url: string, { poolSize = 4, impatient, faults }: Settings): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: poolSize,
    ...(impatient && {
      connectionTimeoutMillis: PATIENCE_MS,
      // What a client that gave up had begun holds its locks until the server gives up as well.
      idle_in_transaction_session_timeout: 2 * PATIENCE_MS,
    }),
  })
  pool.on('error', () => {})
  pool.on('connect', (client) => {
    client.on('error', () => {})
    if (impatient) giveUpInSilence(client)
    if (faults) makeFaulty(client, faults)
  })
  return pool
}

type Query = (...parameters: readonly unknown[]) => Promise<unknown>
type Callback = (error: Error | null, result?: unknown) => void

function makeFaulty(client: pg.PoolClient, faults: DriverFaults): void {
  const query = client.query.bind(client) as unknown as Query
  const faulty: Query = (...parameters) => {
    const [config] = parameters
    const text = String((config as { text?: unknown }).text ?? config)
    return faults.around(
      () => query(...parameters),
      () => refusal(client, faults, text),
      () => new Error('Query read timeout'),
    )
  }
  const either = (...parameters: readonly unknown[]): Promise<unknown> | undefined => {
    const done = parameters.at(-1)
    if (typeof done !== 'function') return faulty(...parameters)
    faulty(...parameters.slice(0, -1)).then(
      (result) => (done as Callback)(null, result),
      (error) => (done as Callback)(error),
    )
    return undefined
  }
  client.query = either as never
}

/** What ends a transaction fails only together with its connection: an error of the server's would have ended it too. */
function refusal(client: pg.PoolClient, faults: DriverFaults, text: string): Error {
  const dies = /^(commit|rollback)/i.test(text) || faults.oneOf(true, false)
  if (!dies) {
    const said = new pg.DatabaseError('out of memory', 80, 'error')
    return Object.assign(said, { code: '53200', severity: 'ERROR' })
  }
  streamOf(client).destroy()
  return Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', errno: -104, syscall: 'read' })
}

/** node-postgres's own query_timeout leaves the connection in the pool, and whoever gets it next waits in vain as well. */
function giveUpInSilence(client: pg.PoolClient): void {
  const stream = streamOf(client)
  stream.setTimeout(PATIENCE_MS, () => stream.destroy(new Error('Connection terminated: no answer')))
}

function streamOf(client: pg.PoolClient): Socket {
  return (client as unknown as { connection: { stream: Socket } }).connection.stream
}

export async function createSchema(pool: pg.Pool, schema: string): Promise<void> {
  await pool.query(`CREATE SCHEMA ${schema}; CREATE TABLE ${schema}.rows (key text)`)
}

export async function contentsOf(pool: pg.Pool, schema: string): Promise<Contents> {
  const all = async <Row extends object>(text: string): Promise<Row[]> => (await pool.query<Row>(text)).rows
  const rows = await all<{ key: string }>(`SELECT key FROM ${schema}.rows`)
  const events = await all<{ headers: string; state: number }>(
    `SELECT headers, state FROM ${schema}.outbox_events`,
  )
  const payloads = await all<{ id: string }>(`SELECT id FROM ${schema}.saga_store`)
  return {
    rows: rows.map(({ key }) => key),
    events: events.filter(({ state }) => state < 2).map(({ headers }) => headersOf(headers)),
    dead: events.filter(({ state }) => state === 3).length,
    payloads: payloads.map(({ id }) => id),
  }
}
