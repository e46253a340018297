import { InMemoryOutbox, type LeasedEvent, type NewEvent, type Outcome, type Storage } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { event, opened, outcome } from './opened.ts'

const STEPS = 60
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

type Any = Pick<Storage<unknown>, 'write' | 'waiting' | 'lease' | 'listDead' | 'stats'>

/** What can be seen of a storage, whatever the order of events that became due at the same time. */
async function seen(storage: Any) {
  const { oldestDueMs: _, ...stats } = await storage.stats()
  const dead = (await storage.listDead({ limit: 100 })).events
  return {
    stats,
    dead: dead.map(({ id, key, waitingBehind }) => `${id} ${key} ${waitingBehind}`).toSorted(),
  }
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, at random', () => {
  test(`does in keys what the reference does (SEED=${SEED})`, async () => {
    const place = await opened({ shards: 2 })
    const dynamo = place.outbox.storage as unknown as Storage<unknown>
    const memory = new InMemoryOutbox({ logger: false }).storage as unknown as Storage<unknown>
    const both = [dynamo, memory] as const
    const next = random(SEED)
    const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)] as T
    let held: LeasedEvent[] = []
    let count = 0
    const fresh = (key: string | null, more: Partial<NewEvent> = {}): NewEvent =>
      event(`e${count++}`, { key, type: pick(['a', 'b']), ...more })
    const fill = (most: number) =>
      Array.from({ length: Math.floor(next() * (most + 1)) }, () => fresh(pick(['x', 'y', 'z', null])))
    const settlement = ({ id, attempt, key }: LeasedEvent): NonNullable<Outcome['settle']> => {
      const of = { id, attempt, key }
      return pick([
        { kind: 'complete', keepMs: 0, ...of },
        { kind: 'complete', keepMs: 0, ...of },
        { kind: 'complete', keepMs: 60_000, ...of },
        { kind: 'retry', delayMs: 0, error: null, counted: true, ...of },
        { kind: 'bury', error: 'x', ...of },
        { kind: 'bury', error: 'x', skip: true, ...of },
      ] as const)
    }
    const write = async (outcomes: readonly Outcome[], inTransaction: boolean): Promise<void> => {
      const results = await Promise.all(
        both.map((storage) =>
          inTransaction
            ? storage.transaction(async (tx) => {
                const all = []
                for (const one of outcomes) all.push(...(await storage.write([one], tx)))
                return all
              })
            : storage.write(outcomes),
        ),
      )
      expect(results[0]).toEqual(results[1])
    }
    for (let step = 0; step < STEPS; step++) {
      const action = next()
      if (action < 0.35) {
        await write([outcome({ append: fill(3) }), outcome({ append: fill(2) })], next() < 0.5)
      } else if (action < 0.6) {
        const [ours, reference] = await Promise.all(both.map((storage) => takeDue(storage, 100, 600_000)))
        const text = (events: readonly LeasedEvent[] = []) =>
          events.map(({ id, attempt, key, address }) => `${id} ${attempt} ${key} ${address}`).toSorted()
        expect(text(ours)).toEqual(text(reference))
        held.push(...(ours ?? []))
      } else if (action < 0.9 && held.length > 0) {
        const settled = [...new Set([pick(held), pick(held)])]
        held = held.filter((one) => !settled.includes(one))
        const outcomes = settled.map((one) => {
          const settle = settlement(one)
          const inPlace =
            settle.kind === 'complete' && next() < 0.5
              ? Array.from({ length: 1 + Math.floor(next() * 3) }, () => fresh(one.key, { inPlace: true }))
              : []
          return outcome({ settle, append: [...inPlace, ...fill(1)] })
        })
        await write(outcomes, next() < 0.4)
      } else {
        const { events } = await memory.listDead({ limit: 100 })
        const letter = pick(events)
        if (!letter) continue
        const { id, attempt, key } = letter
        const kind = pick(['discard', 'revive'] as const)
        await write([outcome({ settle: { kind, id, attempt, key } })], next() < 0.3)
      }
      expect(await seen(dynamo)).toEqual(await seen(memory))
    }
  }, 120_000)
})
