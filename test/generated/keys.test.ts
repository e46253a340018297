import Database from 'better-sqlite3'
import * as fc from 'fast-check'
import { InMemoryOutbox, type Storage } from 'outbox-core'
import { ManualClock } from 'outbox-core/testing'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { expect, test } from 'vitest'
import type {} from '../faults/scenario.ts'
import { Keys, type Move } from './keys.ts'

const LONG = process.env['FAULTS'] === 'long'
const SEED = Number(process.env['SEED'] ?? 1123)

interface Ground {
  readonly storage: Storage<unknown>
  expire(): Promise<void>
  close(): void
}

const GROUNDS: Record<string, { readonly runs: number; open(): Promise<Ground> }> = {
  'in memory': {
    runs: LONG ? 20_000 : 1_000,
    async open() {
      const clock = new ManualClock()
      const { storage } = new InMemoryOutbox({ clock, logger: false })
      return { storage: storage as Storage<unknown>, expire: () => clock.advance(3_600_000), close: () => {} }
    },
  },
  sqlite: {
    runs: LONG ? 5_000 : 300,
    async open() {
      const db = new Database(':memory:')
      const outbox = new SqliteBetterSqlite3Outbox(db, { logger: false })
      await outbox.initialize()
      const leases = db.prepare('UPDATE outbox_events SET visible_at = 1 WHERE state = 1')
      const expire = async (): Promise<void> => void leases.run()
      return { storage: outbox.storage as unknown as Storage<unknown>, expire, close: () => db.close() }
    },
  },
}

const moves: fc.Arbitrary<Move> = fc.oneof(
  fc.record({
    kind: fc.constant('write' as const),
    keys: fc.array(fc.nat(5), { minLength: 1, maxLength: 5 }),
    fate: fc.constantFrom('commit', 'roll back', 'alone'),
  }),
  fc.record({ kind: fc.constant('lease' as const), limit: fc.integer({ min: 1, max: 4 }) }),
  fc.record({
    kind: fc.constant('settle' as const),
    which: fc.nat(5),
    as: fc.constantFrom('complete', 'complete', 'keep', 'retry', 'bury', 'skip'),
    appends: fc.array(fc.constantFrom('in place', 'same key', 'other key'), { maxLength: 3 }),
  }),
  fc.record({
    kind: fc.constant('dead' as const),
    which: fc.nat(5),
    as: fc.constantFrom('revive', 'discard'),
  }),
  fc.record({ kind: fc.constant('forget' as const) }),
)

for (const [adapter, { runs, open }] of Object.entries(GROUNDS)) {
  test(`keys keep their order whatever is done with them: ${adapter}`, { timeout: 3_600_000 }, async ({
    task,
  }) => {
    let made = 0
    const property = fc.asyncProperty(
      fc.array(moves, { minLength: 5, maxLength: 40, size: 'max' }),
      async (program) => {
        const ground = await open()
        try {
          const keys = new Keys(ground.storage, ground.expire)
          for (const move of program) await keys.make(move)
          await keys.end()
          made += program.length
        } finally {
          ground.close()
        }
      },
    )
    await fc.assert(property, { numRuns: runs, seed: SEED })
    expect(made).toBeGreaterThan(runs)
    const counts = { programs: runs, moves: made }
    task.meta.fault = { scenario: 'order per key, any program', adapter, seed: SEED, counts }
  })
}
