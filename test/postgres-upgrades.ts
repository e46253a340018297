import { readFileSync } from 'node:fs'
import { OutboxEventBus } from 'outbox-core'
import { postgresMigrations } from 'outbox-core/sql'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { appending, newEvent, settling } from '../packages/outbox-core/src/testing/harness.ts'
import { catalog, tuning } from './postgres-catalog.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

/** What the version before has created and sends, word for word; its schema is called `place`. */
interface VersionBefore {
  readonly notes: string
  readonly migrations: readonly (readonly string[])[]
  readonly statements: Readonly<
    Record<'append' | 'put' | 'lease' | 'extend' | 'step' | 'stats' | 'payload', string>
  >
}

const before = JSON.parse(
  readFileSync(new URL('fixtures/postgres-before.json', import.meta.url), 'utf8'),
) as VersionBefore

/** How tables come to be, and grow older than the processes that use them. */
export function postgresUpgrades<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)
    const here = (text: string) => text.replaceAll('"place"', place.schema)
    const run = async (statements: readonly string[]): Promise<void> => {
      for (const statement of statements) await place.raw.query(here(statement))
    }
    const createdBefore = (migrations: number) =>
      run([
        before.notes,
        ...before.migrations.slice(0, migrations).flat(),
        ...before.migrations.slice(0, migrations).map(
          (_, index) => `INSERT INTO "place".outbox_migrations (tables, version)
            VALUES ('outbox_events saga_store', ${index + 1})`,
        ),
      ])
    const byOwnTool = () => run(postgresMigrations({ schema: place.schema }).flat())
    /** A transaction that has read the table and goes on. */
    const reader = async (): Promise<() => Promise<void>> => {
      await place.raw.query(`BEGIN; SELECT count(*) FROM ${place.schema}.outbox_events`)
      return async () => void (await place.raw.query('COMMIT'))
    }
    const outboxAs = async (as?: string) =>
      (await place.open(2, as)).outbox({ schema: place.schema, logger: false })

    test('what a tool of the user’s own has done is not done again: without rights, behind nobody', async () => {
      await byOwnTool()
      const made = [await catalog(place.raw, place.schema), await tuning(place.raw, place.schema)]
      expect(await place.count('outbox_migrations')).toBe(postgresMigrations().length)
      const [asRole, asOwner] = [await outboxAs(await place.as()), await outboxAs()]
      const release = await reader()
      await Promise.all([asRole.initialize(), asRole.sagaStore('1d').initialize(), asOwner.initialize()])
      await new OutboxEventBus(asRole).emit('a', 1)
      await release()
      expect([await catalog(place.raw, place.schema), await tuning(place.raw, place.schema)]).toEqual(made)
      await place.raw.query(`DROP SCHEMA ${place.schema} CASCADE; CREATE SCHEMA ${place.schema}`)
      await asOwner.initialize()
      expect([await catalog(place.raw, place.schema), await tuning(place.raw, place.schema)]).toEqual(made)
    })

    test.each(['without the notes', 'whose notes can’t be read'])(
      'complete tables %s ask a role without rights for nothing',
      async (how) => {
        await byOwnTool()
        const as = await place.as()
        const notes = `${place.schema}.outbox_migrations`
        if (how === 'without the notes') await place.raw.query(`DROP TABLE ${notes}`)
        else await place.raw.query(`REVOKE ALL ON ${notes} FROM ${place.schema}_user`)
        const outbox = await outboxAs(as)
        await outbox.initialize()
        await new OutboxEventBus(outbox).emit('a', 1)
      },
    )

    test('what only speeds things up asks for no rights and waits for nobody; the owner’s next start adds it', async () => {
      await byOwnTool()
      const { length } = postgresMigrations()
      await place.raw.query(`ALTER TABLE ${place.schema}.saga_store ALTER COLUMN data SET STORAGE EXTENDED;
        ALTER TABLE ${place.schema}.outbox_events ALTER COLUMN body SET STORAGE EXTENDED;
        ALTER TABLE ${place.schema}.outbox_events_keys RESET (fillfactor);
        DELETE FROM ${place.schema}.outbox_migrations WHERE version = ${length}`)
      await (await outboxAs(await place.as())).initialize()
      expect(await place.count('outbox_migrations')).toBe(length - 1)
      const owner = await outboxAs()
      const release = await reader()
      await owner.initialize()
      expect(await place.count('outbox_migrations')).toBe(length - 1)
      await release()
      await owner.initialize()
      expect(await place.count('outbox_migrations')).toBe(length)
      const upgraded = [await catalog(place.raw, place.schema), await tuning(place.raw, place.schema)]
      await place.raw.query(`DROP SCHEMA ${place.schema} CASCADE; CREATE SCHEMA ${place.schema}`)
      await owner.initialize()
      expect(upgraded).toEqual([
        await catalog(place.raw, place.schema),
        await tuning(place.raw, place.schema),
      ])
    })

    test('what is needed gives way to whoever writes meanwhile, and is done once nobody is in the way', async () => {
      await createdBefore(1)
      await place.raw.query(`DROP INDEX ${place.schema}.outbox_events_dead`)
      const outbox = await outboxAs()
      const bus = new OutboxEventBus(outbox)
      // A transaction that has written holds up the index.
      await place.raw.query('BEGIN')
      await place.raw.query(here(before.statements.append), ['first', 'a', '1', '{}', null])
      let done = false
      const initializing = (await outboxAs()).initialize().then(() => {
        done = true
      })
      for (let n = 0; n < 20; n++) await bus.emit('a', n)
      expect(done).toBe(false)
      await place.raw.query('COMMIT')
      await initializing
      expect(await place.count('outbox_events')).toBe(21)
      expect(await place.count('outbox_migrations')).toBe(postgresMigrations().length)
      const { rows } = await place.raw.query('SELECT FROM pg_indexes WHERE schemaname = $1', [place.schema])
      expect(rows).toHaveLength(9)
    })

    test('a role that may not add what is missing is told who may', async () => {
      await createdBefore(1)
      await place.raw.query(`DROP INDEX ${place.schema}.outbox_events_dead`)
      await expect((await outboxAs(await place.as())).initialize()).rejects.toMatchObject({
        code: 'OUTBOX_NOT_INITIALIZED',
        message: expect.stringContaining('once as their owner'),
        cause: { code: '42501' },
      })
    })

    test('tables that a newer version has changed are refused, and nothing is changed', async () => {
      await createdBefore(1)
      await place.raw.query(
        `INSERT INTO ${place.schema}.outbox_migrations VALUES ('outbox_events saga_store', 99)`,
      )
      const made = await tuning(place.raw, place.schema)
      await expect((await outboxAs()).initialize()).rejects.toMatchObject({
        code: 'OUTBOX_NEWER_SCHEMA',
        stored: 99,
        known: postgresMigrations().length,
      })
      expect(await tuning(place.raw, place.schema)).toEqual(made)
    })

    test('processes of the version before and of this one work side by side', async () => {
      await createdBefore(before.migrations.length)
      const { statements } = before
      const old = async (name: keyof typeof statements, ...parameters: unknown[]) =>
        (await place.raw.query(here(statements[name]), parameters)).rows
      const appendOld = (id: string) => old('append', id, 'a', '1', '{}', null)
      await appendOld('stored-before')
      await old('put', 'claim', Buffer.from('bytes'), 60_000)
      const outbox = await outboxAs()
      await outbox.initialize()
      const { storage } = outbox
      const complete = { kind: 'complete', attempt: 1, keepMs: 0 } as const
      const nothing = { append: [], put: [], remove: [] }
      // What the one writes the other leases, extends and settles.
      expect(await takeDue(storage, 1, 60_000)).toMatchObject([{ id: 'stored-before', attempt: 1 }])
      expect(await old('extend', JSON.stringify([{ id: 'stored-before', attempt: 1 }]), 60_000)).toEqual([])
      await new OutboxEventBus(outbox).emit('a', 1, { id: 'stored-after' })
      const next = newEvent({ id: 'next', type: 'a', body: '1' })
      const settle = { ...complete, id: 'stored-before' }
      expect(await storage.write([{ ...nothing, settle, append: [next] }])).toEqual([{ status: 'applied' }])
      expect(await old('lease', 1, 60_000)).toMatchObject([{ id: 'stored-after', attempt: 1 }])
      expect(await storage.extend([{ id: 'stored-after', attempt: 1 }], 60_000)).toEqual([])
      const step = [
        'stored-after',
        1,
        'last',
        'a',
        '1',
        '{}',
        60_000,
        'other',
        Buffer.from('b'),
        60_000,
        'claim',
      ]
      expect(await old('step', ...step)).toEqual([{ settled: 0, appended: null }])
      expect(await storage.write([{ ...nothing, settle: { ...complete, id: 'stored-after' } }])).toEqual([
        { status: 'lost' },
      ])
      expect([await storage.getPayload('claim'), await old('payload', 'claim')]).toEqual([undefined, []])
      expect(Buffer.from((await storage.getPayload('other')) ?? [])).toEqual(Buffer.from('b'))
      expect(await outbox.stats()).toMatchObject({ due: 1, leased: 1 })
      expect(await old('stats')).toMatchObject([{ due: 1, leased: 1 }])
      // Rows of before are rows of now: a worker of this version ends what both have begun.
      const handled: string[] = []
      const bus = new OutboxEventBus(outbox)
      bus.on('a', ({ id }) => void handled.push(id))
      await place.raw.query(`UPDATE ${place.schema}.outbox_events SET visible_at = now()`)
      await place.started(bus)
      await until(async () => (await place.count('outbox_events')) === 0)
      expect(handled.sort()).toEqual(['last', 'next'])
    })

    test('a process of the version before takes the first of a key only, and the net goes on after it', async () => {
      await createdBefore(before.migrations.length)
      await place.raw.query(here(before.statements.append), ['stored-before', 'a', '1', '{}', null])
      const outbox = await outboxAs()
      await outbox.initialize()
      const { storage } = outbox
      for (const id of ['1', '2', '3']) {
        await storage.write([appending(newEvent({ id, type: 'a', address: 'a#x', key: 'k' }))])
      }
      const { rows } = await place.raw.query(here(before.statements.lease), [10, 60_000])
      expect(rows.map(({ id }) => id)).toEqual(['stored-before', '1'])
      const step = ['1', 1, 'after-1', 'a', '1', '{}', 60_000, 'c', Buffer.from('b'), 60_000, 'none']
      await place.raw.query(here(before.statements.step), step)
      expect(await outbox.stats()).toMatchObject({ due: 0, leased: 2, blocked: 2 })
      expect(await storage.advance?.()).toEqual({ events: 1, busy: [] })
      const [second] = await takeDue(storage, 10, 60_000)
      expect(second).toMatchObject({ id: '2', address: 'a#x', key: 'k' })
      const settle = { kind: 'complete', id: '2', attempt: 1, key: 'k', keepMs: 0 } as const
      expect(await storage.write([settling(settle)])).toEqual([{ status: 'applied' }])
      expect(await takeDue(storage, 10, 60_000)).toMatchObject([{ id: '3' }])
    })
  })
}
