import type { DeadCursor, Outcome, Storage } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { event, opened, url } from './open.ts'

/** Events that die together, in writes of a thousand. */
async function bury(storage: Storage<never>, ids: readonly string[], type: (index: number) => string) {
  const append = ids.map((id, index) => event(id, { type: type(index), address: type(index) }))
  await storage.write([{ append, put: [], remove: [] }])
  const outcomes = (await takeDue(storage, ids.length, 60_000)).map(
    ({ id, attempt }): Outcome => ({
      settle: { kind: 'bury', id, attempt, error: 'because' },
      append: [],
      put: [],
      remove: [],
    }),
  )
  for (let from = 0; from < outcomes.length; from += 1_000)
    await storage.write(outcomes.slice(from, from + 1_000))
}

async function pages(storage: Storage<never>, query: { limit: number; type?: string }): Promise<string[]> {
  const ids: string[] = []
  let after: DeadCursor | undefined
  do {
    const page = await storage.listDead({ ...query, ...(after !== undefined && { after }) })
    ids.push(...page.events.map(({ id }) => id))
    after = page.next
  } while (after !== undefined)
  return ids
}

describe.skipIf(url === undefined)('Dead letters in Redis', () => {
  const ids = Array.from({ length: 2_500 }, (_, n) => `${'Aa'[n % 2]}-${n}`)

  test('many are listed each once, and no script looks at more than a thousand', async () => {
    const { redis, storage } = await opened()
    await bury(storage as never, ids, (index) => (index === 2_499 ? 'rare' : 'common'))
    expect((await pages(storage as never, { limit: 300 })).toSorted()).toEqual(ids.toSorted())
    let scripts = 0
    const { sendCommand } = redis
    redis.sendCommand = function (...args) {
      if (args[0].name === 'evalsha') scripts++
      return sendCommand.apply(this, args)
    }
    expect(await pages(storage as never, { limit: 10, type: 'rare' })).toEqual([ids[2_499]])
    expect(scripts).toBe(3)
  })

  test('those that died in the same millisecond are listed each once, however many', async () => {
    const { redis, storage, key } = await opened()
    await bury(storage as never, ids, () => 'a')
    await redis.zadd(key('dead'), ...ids.flatMap((id) => ['1', id]))
    const sorted = ids.toSorted()
    expect(await pages(storage as never, { limit: 7 })).toEqual(sorted)
    const after = [1, sorted[1_999] ?? ''] as const
    await redis.zrem(key('dead'), sorted[1_999] ?? '')
    const { events } = await storage.listDead({ limit: 3, after })
    expect(events.map(({ id }) => id)).toEqual(sorted.slice(2_000, 2_003))
    const some = [sorted[5], sorted[2_100], sorted[1_999], sorted[2_050]] as string[]
    const found = await storage.listDead({ limit: 1, after, ids: some })
    expect(found.events.map(({ id }) => id)).toEqual([sorted[2_050]])
  })
})
