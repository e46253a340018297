import { type ChainableCommander, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import type { Outcome } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { closedAfterwards, event, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const APPLIED = [{ status: 'applied' }]
const NO = new Error('no')

/** What ioredis's types don't know: lists of commands, and the user's own scripts. */
interface Untyped {
  addBatch(commands: readonly string[][]): void
  mark(name: string): void
}

function appending(id: string, fingerprint: string | null = null): Outcome {
  const due = { inMs: 3_600_000 }
  return { ...NOTHING, append: [event(id, { due, fingerprint })] }
}

function putting(id: string, text: string): Outcome {
  return { ...NOTHING, put: [{ id, data: Buffer.from(text), expires: { inMs: 60_000 } }] }
}

async function place(client: Redis) {
  const opening = await opened(closedAfterwards(client))
  const { storage } = opening
  const nested = <R>(multi: ChainableCommander, work: () => Promise<R>): Promise<R> => {
    if (!storage.nested) throw new Error('this storage has no parts')
    return storage.nested(multi, work)
  }
  /** A part that fails after its work. */
  const failing = (multi: ChainableCommander, work: () => Promise<unknown>): Promise<void> =>
    expect(nested(multi, () => work().then(() => Promise.reject(NO)))).rejects.toBe(NO)
  return { ...opening, nested, failing }
}

describe.skipIf(url === undefined).each([
  ['ioredis 6', Redis],
  ['ioredis 5', Redis5 as unknown as typeof Redis],
] as const)('A part of a MULTI, %s', (_name, Client) => {
  test('commands of the user’s own are taken back, however they were queued', async () => {
    const client = new Client(url ?? '', { scripts: { mark: { lua: 'return 1', numberOfKeys: 1 } } })
    const { redis, outbox, key, failing, nested } = await place(client)
    await outbox.transaction(async (multi) => {
      multi.rpush(key('rows'), '1')
      await failing(multi, async () => {
        multi.rpush(key('rows'), 'a').rpush(key('rows'), 'b').call('RPUSH', key('rows'), 'c')
        const untyped = multi as unknown as Untyped
        untyped.addBatch([['rpush', key('rows'), 'd']])
        untyped.mark(key('rows'))
        await failing(multi, async () => void multi.rpush(key('rows'), 'e'))
        await nested(multi, async () => void multi.rpush(key('rows'), 'f'))
      })
      await nested(multi, async () => {
        multi.rpush(key('rows'), '2').rpush(key('rows'), '3')
        await failing(multi, async () => void multi.rpush(key('rows'), 'g'))
      })
      multi.rpush(key('rows'), '4')
    })
    expect(await redis.lrange(key('rows'), 0, -1)).toEqual(['1', '2', '3', '4'])
  })

  test('replies to the user’s own exec() are those of what was kept, in order', async () => {
    const { redis, outbox, storage, key, failing, nested } = await place(new Client(url ?? ''))
    const multi = redis.multi()
    await outbox.enlist(multi, async () => {
      multi.rpush(key('rows'), '1')
      await failing(multi, async () => void multi.get(key('rows')))
      await nested(multi, async () => {
        multi.rpush(key('rows'), '2')
        await storage.write([appending('x', 'one')], multi)
      })
      multi.llen(key('rows'))
    })
    expect(await multi.exec()).toEqual([
      [null, 1],
      [null, 2],
      [null, ['applied']],
      [null, 2],
    ])
  })

  test('what was settled, appended and put in it counts no more, what was before does', async () => {
    const { outbox, storage, failing, nested } = await place(new Client(url ?? ''))
    await storage.write([
      { ...NOTHING, append: [{ ...appending('held').append[0], due: { at: 1 } } as never] },
    ])
    const [held] = await takeDue(storage, 1, 60_000)
    const settle = { kind: 'complete', id: 'held', attempt: held?.attempt ?? 0, keepMs: 0 } as const
    const completing = { ...NOTHING, settle }
    const text = async (multi: ChainableCommander): Promise<string | undefined> => {
      const bytes = await storage.getPayload('p', multi)
      return bytes && Buffer.from(bytes).toString()
    }
    await outbox.transaction(async (multi) => {
      await storage.write([appending('before', 'one'), putting('p', 'before')], multi)
      await failing(multi, async () => {
        expect(await storage.write([completing, appending('x', 'one')], multi)).toEqual([
          ...APPLIED,
          ...APPLIED,
        ])
        expect(await storage.write([completing], multi)).toEqual([{ status: 'lost' }])
        const again = { status: 'duplicate', fingerprint: 'one' }
        expect(await storage.write([appending('before', 'two')], multi)).toEqual([again])
        expect(await text(multi)).toBe('before')
        await storage.write([putting('p', 'inside')], multi)
        expect(await text(multi)).toBe('inside')
      })
      expect(await text(multi)).toBe('before')
      expect(await storage.write([appending('x', 'two')], multi)).toEqual(APPLIED)
      await nested(multi, () => storage.write([completing, putting('p', 'after')], multi))
      expect(await storage.write([completing], multi)).toEqual([{ status: 'lost' }])
      expect(await text(multi)).toBe('after')
    })
    expect(Buffer.from((await storage.getPayload('p')) ?? []).toString()).toBe('after')
    expect(await outbox.stats()).toMatchObject({ leased: 0 })
    expect(await storage.write([appending('x', 'other')])).toEqual([
      { status: 'duplicate', fingerprint: 'two' },
    ])
  })

  test('an event that another worker changes meanwhile is found in its own reply', async () => {
    const { redis, outbox, storage, key, failing, nested } = await place(new Client(url ?? ''))
    await storage.write([
      { ...NOTHING, append: [{ ...appending('held').append[0], due: { at: 1 } } as never] },
    ])
    const [held] = await takeDue(storage, 1, 60_000)
    const settle = { kind: 'bury', id: 'held', attempt: held?.attempt ?? 0, error: 'x' } as const
    const committing = outbox.transaction(async (multi) => {
      multi.lrange(key('rows'), 0, -1)
      await failing(multi, async () => void multi.lrange(key('rows'), 0, -1))
      await nested(multi, async () => {
        multi.rpush(key('rows'), 'x')
        await nested(multi, async () => {
          multi.lrange(key('rows'), 0, -1)
          await storage.write([{ ...NOTHING, settle }], multi)
        })
      })
      await redis.hset(key('event:held'), 'attempt', '9')
    })
    await expect(committing).rejects.toThrow(/"held" was changed by another worker/)
  })

  test('an exec() inside it executes everything, and leaves the connection as it was', async () => {
    const { redis, outbox, storage, key, nested } = await place(new Client(url ?? ''))
    const committing = outbox.transaction(async (multi) => {
      multi.rpush(key('rows'), '1')
      await nested(multi, () =>
        nested(multi, async () => {
          multi.rpush(key('rows'), '2')
          await storage.write([appending('x')], multi)
          await multi.exec()
        }),
      )
    })
    await expect(committing).rejects.toMatchObject({ code: 'OUTBOX_TRANSACTION_MISSING' })
    expect(await redis.lrange(key('rows'), 0, -1)).toEqual(['1', '2'])
    expect(await redis.exists(key('event:x'))).toBe(1)
  })

  test('a write that comes after the end is refused, in a part that has not ended too', async () => {
    const { redis, outbox, storage, key, nested } = await place(new Client(url ?? ''))
    let late: Promise<unknown> | undefined
    await outbox.transaction(async (multi) => {
      multi.set(key('row'), '1')
      late = nested(multi, async () => {
        await redis.ping()
        await redis.ping()
        await storage.write([appending('late')], multi)
      })
      late.catch(() => {})
    })
    await expect(late).rejects.toMatchObject({ code: 'OUTBOX_TRANSACTION_CLOSED' })
    expect(await redis.exists(key('row'), key('event:late'))).toBe(1)
  })
})
