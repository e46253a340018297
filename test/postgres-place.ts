import { randomUUID } from 'node:crypto'
import type { Outbox, OutboxEventBus, OutboxOptions } from 'outbox-core'
import type { PostgresStorageOptions } from 'outbox-core/sql'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import type { Client } from './postgres-backend.ts'

/** Opens a client with a pool of `max` connections, all of them open from the start. */
export type Connect<Tx, TxOptions> = (
  url: string,
  applicationName: string,
  max?: number,
) => Promise<Client<Tx, TxOptions>>

/** A schema of its own for every test of a suite, with the raw client beside it. */
export class PostgresPlace<Tx, TxOptions> {
  readonly raw: pg.Client
  /** The schema; its clients have it as their application name, too. */
  schema = ''
  readonly #url: string
  readonly #connect: Connect<Tx, TxOptions>
  #closing: (() => Promise<unknown>)[] = []

  /** Registers what has to happen before and after every test. */
  constructor(url: string, connect: Connect<Tx, TxOptions>) {
    this.#url = url
    this.#connect = connect
    this.raw = new pg.Client(url)
    beforeAll(() => this.raw.connect())
    afterAll(() => this.raw.end())
    beforeEach(async () => {
      this.schema = `suite_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      await this.raw.query(`CREATE SCHEMA ${this.schema}`)
    })
    afterEach(async () => {
      for (const close of this.#closing.splice(0).reverse()) await close()
      await this.raw.query(`DROP SCHEMA ${this.schema} CASCADE`)
    })
  }

  /** Has something closed after the test. */
  closing(close: () => Promise<unknown>): void {
    this.#closing.push(close)
  }

  async open(max?: number, url = this.#url): Promise<Client<Tx, TxOptions>> {
    const client = await this.#connect(url, this.schema, max)
    this.closing(() => client.close())
    return client
  }

  /**
   * A user who may do everything in the schema but create, with settings of his own.
   *
   * @returns the URL to connect as him
   */
  async as(settings: Readonly<Record<string, string>> = {}): Promise<string> {
    const role = `${this.schema}_user`
    await this.raw.query(`CREATE ROLE ${role} LOGIN PASSWORD 'outbox'`)
    this.closing(() => this.raw.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`))
    await this.raw.query(`GRANT USAGE ON SCHEMA ${this.schema} TO ${role}`)
    await this.raw.query(`GRANT ALL ON ALL TABLES IN SCHEMA ${this.schema} TO ${role}`)
    for (const [name, value] of Object.entries(settings)) {
      await this.raw.query(`ALTER ROLE ${role} SET ${name} = '${value}'`)
    }
    return Object.assign(new URL(this.#url), { username: role, password: 'outbox' }).href
  }

  async initialized(
    max?: number,
    options: OutboxOptions & PostgresStorageOptions = {},
  ): Promise<{ client: Client<Tx, TxOptions>; outbox: Outbox<Tx, TxOptions> }> {
    const client = await this.open(max)
    const outbox = client.outbox({ schema: this.schema, logger: false, ...options })
    await outbox.initialize()
    return { client, outbox }
  }

  async started(bus: OutboxEventBus): Promise<OutboxEventBus> {
    this.closing(() => bus.stop())
    await bus.start()
    return bus
  }

  async count(table: string): Promise<number> {
    const { rows } = await this.raw.query(`SELECT count(*)::int AS count FROM ${this.schema}.${table}`)
    return rows[0].count
  }

  async tables(): Promise<string[]> {
    const { rows } = await this.raw.query(
      'SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY tablename',
      [this.schema],
    )
    return rows.map(({ tablename }) => tablename)
  }

  /** Process ids of the connections that its clients have, or of those in a state. */
  async sessions(state?: string): Promise<number[]> {
    const { rows } = await this.raw.query(
      'SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND ($2::text IS NULL OR state = $2)',
      [this.schema, state],
    )
    return rows.map(({ pid }) => pid)
  }

  /** Ends every connection that its clients have, and waits until they are gone. */
  async cutConnections(): Promise<void> {
    await this.raw.query(
      'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1',
      [this.schema],
    )
  }
}
