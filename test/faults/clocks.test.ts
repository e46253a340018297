import { type Clock, systemClock } from 'outbox-core'
import { expect } from 'vitest'
import { assertSettled, repeatedAttempts } from './ledger.ts'
import { fails, sagasOn } from './sagas.ts'
import { scenario } from './scenario.ts'
import { drained, until } from './stage.ts'

const MINUTES_10 = 600_000
const SLIPS = 20

// Far less than the clocks are apart, and far more than a living worker needs.
const OPTIONS = { bus: { lease: '3m' } } as const

const skewed = (ms: number): Clock => ({ ...systemClock, now: () => systemClock.now() + ms })

/** Who is wrong, by how much. */
const CASES = [
  { emitter: MINUTES_10, worker: 0 },
  { emitter: -MINUTES_10, worker: 0 },
  { emitter: 0, worker: MINUTES_10 },
  { emitter: 0, worker: -MINUTES_10 },
]

scenario('clock 10 minutes off', { short: 4, long: 4 }, async ({ adapter, opened, open, ledger }) => {
  // DynamoDB has no clock: an event is due when its emitter says so, and only a worker as far ahead agrees.
  const hasClock = adapter !== 'dynamodb'
  const slips: string[] = []
  for (const [number, { emitter, worker }] of CASES.entries()) {
    const wrong = hasClock ? worker : Math.max(worker, emitter)
    const emitting = sagasOn((await open({ clock: skewed(emitter) })).outbox, ledger.file)
    const workers = [
      sagasOn((await open({ clock: skewed(wrong) })).outbox, ledger.file, OPTIONS),
      sagasOn((await open()).outbox, ledger.file, OPTIONS),
    ]
    for (const { bus } of workers) await bus.start()
    const ids = Array.from({ length: SLIPS }, (_, slip) => `slip-${number}-${slip}`)
    for (const id of ids) await emitting.engine.emit(emitting.slip(id))
    slips.push(...ids)
    await until(() => ledger.ended().size === slips.length)
    await drained(opened)
    for (const { bus } of workers) await bus.stop()
  }
  assertSettled(ledger, await opened.contents(), slips)
  // A wrong clock takes no lease from a living worker, unless it is the only one there is.
  if (hasClock) expect(repeatedAttempts(ledger)).toBe(0)
  expect(ledger.noted('compensated').length).toBe(slips.filter(fails).length)
  return { cases: CASES.length, slips: slips.length, 'repeated attempts': repeatedAttempts(ledger) }
})
