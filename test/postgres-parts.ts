import type { Outbox } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { appending, newEvent } from '../packages/outbox-core/src/testing/harness.ts'
import { type Client, partOf } from './postgres-backend.ts'
import { type Connect, PostgresPlace } from './postgres-place.ts'

/** Parts of transactions on every client of a Postgres server, when a statement in them fails and they are taken back. */
export function postgresParts<Tx, TxOptions>(
  name: string,
  url: string,
  connect: Connect<Tx, TxOptions>,
): void {
  describe(name, () => {
    const place = new PostgresPlace(url, connect)

    /** What can be done in a transaction of a place whose events must not be of type 'refused'. */
    const parts = async (max?: number) => {
      const { client, outbox } = await place.initialized(max)
      await place.raw.query(`CREATE TABLE ${place.schema}.business (key text)`)
      await place.raw.query(`ALTER TABLE ${place.schema}.outbox_events ADD CHECK (type <> 'refused')`)
      const { storage } = outbox
      const part = <R>(tx: Tx, work: () => Promise<R>): Promise<R> => partOf(storage, tx, work)
      const write = (tx: Tx, type: string) => storage.write([appending(newEvent({ type }))], tx)
      const insert = (tx: Tx, key: string) =>
        client.execute(tx, `INSERT INTO ${place.schema}.business VALUES ($1)`, key)
      const divide = (tx: Tx) => client.execute(tx, 'SELECT 1 / $1::int', '0')
      return { client, outbox, part, write, insert, divide, both: twoWays(client, outbox) }
    }

    /** Everything that was committed. */
    const committed = async (): Promise<string[]> => {
      const { rows } = await place.raw.query(
        `SELECT type AS name FROM ${place.schema}.outbox_events UNION ALL
          SELECT key FROM ${place.schema}.business ORDER BY name`,
      )
      return rows.map((row) => row.name)
    }

    const refused = { code: 'OUTBOX_STORAGE', blame: 'event', cause: { code: '23514' } }

    test.each(['outbox.transaction', 'enlist'] as const)(
      'a statement that failed in it, ours or the user’s, does not keep the others from their commit: %s',
      async (way) => {
        const { part, write, insert, divide, both } = await parts()
        await both[way](async (tx) => {
          await write(tx, 'before')
          await expect(part(tx, () => write(tx, 'refused'))).rejects.toMatchObject(refused)
          await write(tx, 'between')
          const dividing = part(tx, async () => {
            await insert(tx, 'inside')
            await divide(tx)
          })
          await expect(dividing).rejects.toThrow()
          await insert(tx, 'own')
          await part(tx, () => write(tx, 'kept'))
        })
        expect(await committed()).toEqual(['before', 'between', 'kept', 'own'])
      },
    )

    test('fails with what failed in it, although its own code went on', async () => {
      const { outbox, part, write, insert, divide } = await parts()
      await outbox.transaction(async (tx) => {
        let failure: unknown
        const ours = part(tx, async () => {
          await insert(tx, 'inside')
          await write(tx, 'refused').catch((error: unknown) => {
            failure = error
          })
        })
        await expect(ours).rejects.toMatchObject(refused)
        await expect(ours).rejects.toBe(failure)
        const users = part(tx, async () => {
          await insert(tx, 'inside')
          await divide(tx).catch(() => {})
        })
        await expect(users).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', cause: { code: '25P02' } })
        await insert(tx, 'outside')
      })
      expect(await committed()).toEqual(['outside'])
    })

    test('in one another: the inner one that failed takes nothing else with it', async () => {
      const { outbox, part, write, divide } = await parts()
      await outbox.transaction(async (tx) => {
        await part(tx, async () => {
          await write(tx, 'outer')
          for (const fail of [() => write(tx, 'refused'), () => divide(tx)]) {
            await expect(part(tx, fail)).rejects.toThrow()
            await part(tx, () => write(tx, 'inner'))
          }
        })
        const undone = part(tx, async () => {
          await part(tx, () => write(tx, 'released, then undone'))
          await divide(tx)
        })
        await expect(undone).rejects.toThrow()
        await write(tx, 'after')
      })
      expect(await committed()).toEqual(['after', 'inner', 'inner', 'outer'])
    })

    test('what fails outside of it still fails the transaction, whose code went on', async () => {
      const { outbox, part, write, insert } = await parts()
      const swallowing = outbox.transaction(async (tx) => {
        await insert(tx, 'a')
        await part(tx, () => write(tx, 'refused')).catch(() => {})
        await write(tx, 'refused').catch(() => {})
        await part(tx, () => insert(tx, 'b')).catch(() => {})
      })
      await expect(swallowing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE' })
      expect(await committed()).toEqual([])
    })

    test('costs two statements, three when it fails, and leaves no savepoint behind', async () => {
      const { client, outbox, part, insert } = await parts()
      const seen: unknown[] = []
      const open = async (): Promise<number> => {
        const { rows } = await place.raw.query(
          `SELECT count(*)::int AS count FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE application_name = $1 AND locktype = 'transactionid'`,
          [place.schema],
        )
        return rows[0].count
      }
      await outbox.transaction(async (tx) => {
        await insert(tx, 'a')
        const before = client.statements()
        await part(tx, async () => {})
        seen.push(client.statements() - before)
        await part(tx, () => Promise.reject(new Error('no'))).catch(() => {})
        seen.push(client.statements() - before)
        for (const own of [
          () => insert(tx, 'b'),
          () => insert(tx, 'c').then(() => Promise.reject(new Error('no'))),
        ]) {
          await part(tx, async () => {
            await own()
            seen.push((await open()) > 1)
          }).catch(() => {})
          seen.push(await open())
        }
      })
      // The transaction's own and the part's; after the part, only its own.
      expect(seen).toEqual([2, 5, true, 1, 1])
      expect(await committed()).toEqual(['a', 'b'])
    })

    test('a transaction that lost against another one in it is run again as a whole', async () => {
      const { client, outbox, part, write } = await parts()
      await place.raw.query(
        `CREATE FUNCTION ${place.schema}.fail(state text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = state; END $$`,
      )
      let runs = 0
      await outbox.transaction(async (tx) => {
        await write(tx, 'a')
        await part(tx, async () => {
          if (++runs < 3) await client.execute(tx, `SELECT ${place.schema}.fail($1)`, '40001')
        })
      })
      expect(runs).toBe(3)
      expect(await committed()).toEqual(['a'])
    })

    test('with the connection gone it throws what its code threw, and nothing is committed', async () => {
      const { outbox, part, write } = await parts()
      const own = new Error('the callback’s own')
      let thrown: unknown
      const dying = outbox.transaction(async (tx) => {
        await write(tx, 'before')
        const failing = part(tx, async () => {
          await place.cutConnections()
          throw own
        })
        thrown = await failing.catch((error: unknown) => error)
      })
      await expect(dying).rejects.toMatchObject({
        code: expect.stringMatching(/^OUTBOX_(STORAGE|UNKNOWN_OUTCOME)$/),
      })
      expect(thrown).toBe(own)
      expect(await committed()).toEqual([])
      await outbox.transaction((tx) => write(tx, 'next'))
      expect(await committed()).toEqual(['next'])
    })

    test('is refused once the transaction has ended', async () => {
      const { outbox, part } = await parts()
      const ended = await outbox.transaction(async (tx) => ({ tx }))
      const late = part(ended.tx, () => Promise.resolve())
      await expect(late).rejects.toMatchObject({ code: 'OUTBOX_TRANSACTION_CLOSED' })
    })
  })
}

/** A transaction of the outbox, and one of the user's own. */
function twoWays<Tx, TxOptions>(client: Client<Tx, TxOptions>, outbox: Outbox<Tx, TxOptions>) {
  return {
    'outbox.transaction': (work: (tx: Tx) => Promise<void>): Promise<unknown> => outbox.transaction(work),
    enlist: (work: (tx: Tx) => Promise<void>): Promise<unknown> =>
      client.transaction((tx) => outbox.enlist(tx, work)),
  }
}
