import { inspect } from 'node:util'
import { OutboxEventBus } from 'outbox-core'
import { until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { FaultyNetwork } from './faults/proxy.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

/**
 * What every client on a Postgres server does when connections die, transactions collide and statements are refused.
 *
 * @param hears whether the client may hear of a lost connection before it commits, and know that nothing was written
 */
export function postgresFaults<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
  { hears = false }: { readonly hears?: boolean } = {},
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)

    test('recovers by itself when every connection dies in the middle of a batch', async () => {
      const { outbox } = await place.initialized()
      const bus = new OutboxEventBus(outbox, {
        lease: 2_000,
        heartbeat: 500,
        batchSize: 10,
        concurrency: 5,
        poll: { min: 20, max: 50 },
      })
      const completed = new Map<number, number>()
      bus.on<'work'>('work', async ({ payload }) => {
        const n = payload as number
        if (n % 20 === 7 && !completed.has(n)) {
          completed.set(n, 0)
          await place.cutConnections()
        }
        completed.set(n, (completed.get(n) ?? 0) + 1)
      })
      await bus.emitMany(Array.from({ length: 60 }, (_, n) => ({ type: 'work', payload: n })))
      await place.started(bus)
      await until(async () => (await place.count('outbox_events')) === 0, 20_000)
      expect([...completed.keys()].sort((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, n) => n))
      expect(Math.min(...completed.values())).toBeGreaterThan(0)
    })

    test('fails, without a word that may be wrong, when the connection dies before the commit', async () => {
      const { outbox } = await place.initialized()
      const bus = new OutboxEventBus(outbox)
      const dying = outbox.transaction(async () => {
        await bus.emit('a', 1)
        await place.cutConnections()
      })
      const unknown = 'OUTBOX_UNKNOWN_OUTCOME'
      const code = hears ? expect.stringMatching(`^(${unknown}|OUTBOX_STORAGE)$`) : unknown
      await expect(dying).rejects.toMatchObject({ code })
      expect(await place.count('outbox_events')).toBe(0)
      await until(() =>
        bus.emit('a', 1).then(
          () => true,
          () => false,
        ),
      )
      expect(await place.count('outbox_events')).toBe(1)
    })

    test('says that an outcome is unknown when the answer to the commit is lost on its way', async () => {
      await place.initialized()
      const network = await FaultyNetwork.start(url)
      place.closing(() => network.close())
      const outbox = (await place.open(1, network.url)).outbox({ schema: place.schema, logger: false })
      const cut = network.cutAnswer(/\bcommit\b/i)
      const emitting = outbox.transaction(() => new OutboxEventBus(outbox).emit('a', 1))
      await expect(emitting).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
      await cut
      await until(async () => (await place.count('outbox_events')) === 1)
    })

    test('throws what the callback threw, even when the rollback fails too', async () => {
      const { outbox } = await place.initialized()
      const own = new Error('the callback’s own')
      const dying = outbox.transaction(async () => {
        await place.cutConnections()
        throw own
      })
      await expect(dying).rejects.toBe(own)
    })

    test('runs a transaction again that lost against another one, and emits once', async () => {
      const { client, outbox } = await place.initialized()
      const bus = new OutboxEventBus(outbox)
      await place.raw.query(
        `CREATE FUNCTION ${place.schema}.fail(state text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = state; END $$`,
      )
      const failing = `SELECT ${place.schema}.fail($1)`
      for (const state of ['40001', '40P01']) {
        let runs = 0
        const done = outbox.transaction(async (tx) => {
          await bus.emit('a', state)
          if (++runs < 3) await client.execute(tx, failing, state)
          return runs
        })
        expect(await done).toBe(3)
      }
      expect(await place.count('outbox_events')).toBe(2)
      let runs = 0
      const endless = outbox.transaction(async (tx) => {
        runs++
        await client.execute(tx, failing, '40001')
      })
      await expect(endless).rejects.toThrow()
      expect(runs).toBe(5)
      const other = outbox.transaction(async (tx) => {
        runs++
        await client.execute(tx, failing, '23514')
      })
      await expect(other).rejects.toThrow()
      expect(runs).toBe(6)
    })

    test('runs a statement on its own again that lost against another one', async () => {
      const { outbox } = await place.initialized()
      await place.raw.query(
        `CREATE SEQUENCE ${place.schema}.tries;
        CREATE FUNCTION ${place.schema}.lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF nextval('${place.schema}.tries') % 3 > 0 THEN RAISE EXCEPTION 'as asked' USING ERRCODE = '40P01'; END IF;
          RETURN NEW; END $$;
        CREATE TRIGGER lose BEFORE INSERT ON ${place.schema}.outbox_events
          FOR EACH STATEMENT EXECUTE FUNCTION ${place.schema}.lose()`,
      )
      const bus = new OutboxEventBus(outbox)
      await bus.emit('a', 1)
      await bus.emitMany([1, 2, 3].map((payload) => ({ type: 'b', payload })))
      expect(await place.count('outbox_events')).toBe(4)
      expect(await place.count('tries WHERE last_value = 6')).toBe(1)
    })

    test('fails a transaction whose callback went on after a statement of the outbox had failed', async () => {
      const { client, outbox } = await place.initialized()
      await place.raw.query(`CREATE TABLE ${place.schema}.business (key text)`)
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events ADD CHECK (type <> 'refused')`)
      const bus = new OutboxEventBus(outbox)
      const swallowing = outbox.transaction(async (tx) => {
        await client.execute(tx, `INSERT INTO ${place.schema}.business VALUES ($1)`, 'a')
        await bus.emit('refused', 1).catch(() => {})
      })
      await expect(swallowing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
      expect(await place.count('business')).toBe(0)
    })

    test('buries an event whose outcome is refused, and settles those beside it', async () => {
      const { outbox } = await place.initialized()
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events ADD CHECK (type <> 'refused')`)
      const bus = new OutboxEventBus(outbox, { poll: { max: 50 } })
      bus.on('a', async ({ payload }, { emit }) => {
        if (payload === 2) await emit('refused', 1)
      })
      await bus.emitMany(Array.from({ length: 5 }, (_, payload) => ({ type: 'a', payload })))
      await place.started(bus)
      await until(async () => (await place.count('outbox_events')) === 1)
      await until(async () => (await outbox.stats()).dead === 1)
      const { letters } = await outbox.deadLetters.list()
      expect(letters).toMatchObject([{ payload: 2, error: expect.stringContaining('23514') }])
    })

    test.each(['statement_timeout', 'lock_timeout'])(
      'a write that meets the %s fails as one that may be repeated, and nothing of it stays',
      async (setting) => {
        await place.initialized(1)
        const client = await place.open(1, await place.as({ [setting]: '200ms' }))
        const outbox = client.outbox({ schema: place.schema, logger: false })
        const bus = new OutboxEventBus(outbox)
        await place.raw.query('BEGIN')
        await place.raw.query(`LOCK TABLE ${place.schema}.outbox_events`)
        const code = setting === 'lock_timeout' ? '55P03' : '57014'
        const refused = { code: 'OUTBOX_STORAGE', transient: true, blame: 'environment', cause: { code } }
        await expect(bus.emit('a', 1)).rejects.toMatchObject(refused)
        await expect(outbox.transaction(() => bus.emit('a', 2))).rejects.toMatchObject(refused)
        await place.raw.query('ROLLBACK')
        await outbox.transaction(() => bus.emit('a', 3))
        expect(await place.count('outbox_events')).toBe(1)
      },
    )

    test('a transaction that idles longer than the server allows fails, and the next one works', async () => {
      await place.initialized(1)
      const as = await place.as({ idle_in_transaction_session_timeout: '200ms' })
      const outbox = (await place.open(1, as)).outbox({ schema: place.schema, logger: false })
      const bus = new OutboxEventBus(outbox)
      for (const late of [() => bus.emit('late', 1), async () => {}]) {
        const idling = outbox.transaction(async () => {
          await bus.emit('early', 1)
          const [idle] = await place.sessions('idle in transaction')
          await until(async () => !(await place.sessions('idle in transaction')).includes(idle ?? 0))
          await late()
        })
        await expect(idling).rejects.toMatchObject({
          code: expect.stringMatching(/^OUTBOX_(STORAGE|UNKNOWN_OUTCOME)$/),
        })
      }
      await outbox.transaction(() => bus.emit('next', 1))
      expect(await place.count('outbox_events')).toBe(1)
    })

    test('shows neither rows nor parameters in an error', async () => {
      const { outbox } = await place.initialized()
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events ADD CHECK (type <> 'refused')`)
      await place.raw.query(`ALTER TABLE ${place.schema}.saga_store ADD CHECK (octet_length(data) > 100)`)
      const secret = 'SECRET-PAYLOAD'
      const bus = new OutboxEventBus(outbox)
      const failures = [
        await bus.emit('refused', secret).catch((error) => error),
        await bus
          .emitMany([
            { type: 'refused', payload: secret },
            { type: 'b', payload: secret },
          ])
          .catch((error) => error),
        await outbox
          .sagaStore('1d')
          .put('claim', Buffer.from(secret))
          .catch((error) => error),
      ]
      for (const error of failures) {
        expect(error).toMatchObject({
          code: 'OUTBOX_STORAGE',
          transient: false,
          blame: 'event',
          cause: { code: '23514' },
        })
        const shown = inspect(error, { depth: 10, showHidden: true })
        expect(shown).not.toContain(secret)
        expect(shown).not.toContain(Buffer.from(secret).toString('hex'))
      }
      expect(await place.count('outbox_events')).toBe(0)
    })

    test('whatever isolation is the default, statements that lost against others are run again', async () => {
      const settings = { default_transaction_isolation: 'serializable' }
      const as = await place.as(settings)
      await place.raw.query(`GRANT CREATE ON SCHEMA ${place.schema} TO ${place.schema}_user`)
      const options = { schema: place.schema, logger: false } as const
      const outboxes = (await Promise.all([place.open(4, as), place.open(4, as)])).map((client) =>
        client.outbox(options),
      )
      const handled = new Map<unknown, number>()
      await Promise.all(outboxes.map((outbox) => outbox.initialize()))
      for (const outbox of outboxes) {
        const bus = new OutboxEventBus(outbox, { batchSize: 10, concurrency: 5, poll: { max: 50 } })
        bus.on('a', ({ payload }) => {
          handled.set(payload, (handled.get(payload) ?? 0) + 1)
        })
        await place.started(bus)
      }
      const emitting = outboxes.map(async (outbox, n) => {
        for (let index = 0; index < 25; index++) {
          const id = `order-${n}-${index}`
          const emit = () => new OutboxEventBus(outbox).emit('a', id, { id })
          await (index % 2 ? outbox.transaction(emit) : emit())
        }
      })
      await Promise.all(emitting)
      await until(async () => (await place.count('outbox_events')) === 0, 20_000)
      expect([handled.size, Math.max(...handled.values())]).toEqual([50, 1])
    })
  })
}
