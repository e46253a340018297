import { randomUUID } from 'node:crypto'
import type { Outbox, OutboxOptions, Storage } from 'outbox-core'
import { type PostgresStorageOptions, postgresMigrations } from 'outbox-core/sql'
import type { Backend, BackendTraits, Place, RawEvent, RawPayload } from 'outbox-core/testing'
import pg from 'pg'
import type { ServiceRole } from './postgres-role.ts'

/** One client of the user's own, with the outbox on it. */
export interface Client<Tx, TxOptions> {
  outbox(options: OutboxOptions & PostgresStorageOptions): Outbox<Tx, TxOptions>
  execute(tx: Tx, text: string, key: string): Promise<unknown>
  transaction(work: (tx: Tx) => Promise<void>): Promise<unknown>
  /** Statements sent so far. */
  statements(): number
  close(): Promise<void>
}

/** What looks at the place behind the outbox's back. */
export interface RawClient {
  query(text: string, parameters?: unknown[]): Promise<{ rows: unknown[] }>
  end(): Promise<void>
}

export async function rawClient(url: string): Promise<RawClient> {
  const client = new pg.Client(url)
  await client.connect()
  return client
}

/** Runs a part of a transaction, which every Postgres can take back. */
export function partOf<Tx, TxOptions, R>(
  storage: Storage<Tx, TxOptions>,
  tx: Tx,
  work: () => Promise<R>,
): Promise<R> {
  if (!storage.nested) throw new Error('Postgres has savepoints')
  return storage.nested(tx, work)
}

/**
 * A Postgres backend: a schema of its own for every place.
 *
 * @param role what the clients connect as, when that is not the owner, who creates the tables
 */
export function postgresBackend<Tx, TxOptions>(
  name: string,
  openRaw: () => Promise<RawClient>,
  connect: (applicationName: string) => Promise<Client<Tx, TxOptions>>,
  { role, ...traits }: BackendTraits & { readonly role?: ServiceRole } = {},
): Backend<Tx, TxOptions> {
  return {
    name,
    traits,
    async open(options = {}) {
      const raw = await openRaw()
      const schema = `place_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      await raw.query(`CREATE SCHEMA ${schema}`)
      await raw.query(`CREATE TABLE ${schema}.business (key text)`)
      if (role) {
        for (const statement of postgresMigrations({ schema }).flat()) await raw.query(statement)
        await role.grant(raw, schema)
      }
      return openPlace(schema, raw, connect, options)
    },
  }
}

async function openPlace<Tx, TxOptions>(
  schema: string,
  raw: RawClient,
  connect: (applicationName: string) => Promise<Client<Tx, TxOptions>>,
  options: OutboxOptions,
): Promise<Place<Tx, TxOptions>> {
  const clients: Client<Tx, TxOptions>[] = []
  const open = async (): Promise<Client<Tx, TxOptions>> => {
    const client = await connect(schema)
    clients.push(client)
    return client
  }
  const client = await open()
  const outbox = client.outbox({ ...options, schema })
  await outbox.initialize()
  const rows = async <Row>(text: string, ...parameters: unknown[]): Promise<Row[]> =>
    (await raw.query(text.replaceAll('$schema', schema), parameters)).rows as Row[]
  return {
    outbox,
    sibling: async (more) => (await open()).outbox({ ...options, ...more, schema }),
    writeBusinessRow: async (tx, key) => {
      await client.execute(tx, `INSERT INTO ${schema}.business VALUES ($1)`, key)
    },
    businessRows: async () =>
      (await rows<{ key: string }>('SELECT key FROM $schema.business')).map(({ key }) => key),
    async ownTransaction(work) {
      await client.transaction(work)
    },
    async events() {
      const found = await rows<Omit<RawEvent, 'headers' | 'state'> & { headers: string; state: number }>(
        'SELECT id, type, body, headers, state, attempt FROM $schema.outbox_events ORDER BY seq',
      )
      const states = ['waiting', 'leased', 'done', 'dead', 'blocked'] as const
      return found.map((row) => ({
        ...row,
        headers: JSON.parse(row.headers),
        state: states[row.state] ?? 'waiting',
      }))
    },
    payloads: () =>
      rows<RawPayload>(
        'SELECT id, data, extract(epoch FROM expires_at)::float8 * 1000 AS "expiresAt" FROM $schema.saga_store',
      ),
    async overwritePayload(id, data) {
      await rows('UPDATE $schema.saga_store SET data = $2 WHERE id = $1', id, data)
    },
    async expirePayload(id) {
      await rows("UPDATE $schema.saga_store SET expires_at = now() - interval '1 day' WHERE id = $1", id)
    },
    async expireLeases() {
      await rows("UPDATE $schema.outbox_events SET visible_at = now() - interval '1 hour' WHERE state = 1")
    },
    roundTrips: () => client.statements(),
    async connections() {
      const [row] = await rows<{ count: number }>(
        'SELECT count(*)::int AS count FROM pg_stat_activity WHERE application_name = $1',
        schema,
      )
      return row?.count ?? 0
    },
    async destroy() {
      await outbox.close()
      await Promise.all(clients.map((one) => one.close()))
      await rows('DROP SCHEMA $schema CASCADE')
      await raw.end()
    },
  }
}
