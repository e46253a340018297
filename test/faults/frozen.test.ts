import type { ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { assertRepeatsExplained, repeatedRuns } from './ledger.ts'
import { settled } from './load.ts'
import { sagasOn } from './sagas.ts'
import { type Counts, scenario } from './scenario.ts'
import { type Stage, until } from './stage.ts'

const WORKERS = 4
const LEASE_MS = 300

// More than the workers can lease ahead, so that each of them gets one.
const SLIPS_OF_A_ROUND = 12

scenario('process stopped', { short: 20, long: 500 }, (stage, { amount }) =>
  takeOver(stage, amount, 'hold', {
    async stall(worker) {
      worker.kill('SIGSTOP')
      // Nobody takes over from a process that was stopped while it held SQLite's write lock.
      for (await sleep(1); stage.opened.isLocked?.(); await sleep(1)) {
        worker.kill('SIGCONT')
        await sleep(2)
        worker.kill('SIGSTOP')
      }
    },
    thaw: (worker) => worker.kill('SIGCONT'),
  }),
)

scenario('event loop blocked', { short: 20, long: 500 }, (stage, { amount }) =>
  takeOver(stage, amount, 'block'),
)

/**
 * Four workers stall in the middle of an activity for longer than their lease; another one takes their events, and is in
 * the same activities when they come back to write what became of theirs.
 */
async function takeOver(
  stage: Stage,
  amount: number,
  kind: 'hold' | 'block',
  {
    stall,
    thaw,
  }: { stall?: (worker: ChildProcess) => Promise<void>; thaw?: (worker: ChildProcess) => void } = {},
): Promise<Counts> {
  const { ledger, opened, start } = stage
  const workers = await Promise.all(
    Array.from({ length: WORKERS }, () =>
      start('work', {
        bus: { lease: LEASE_MS, concurrency: 1, batchSize: 1 },
        stall: { kind, ms: 2 * LEASE_MS },
      }),
    ),
  )
  const slips: string[] = []
  let stalls = 0
  for (let round = 0; stalls < amount; round++, stalls += WORKERS) {
    const stalled = (worker: ChildProcess): boolean =>
      ledger.noted('stalling').includes(`${round} ${worker.pid}`)
    const lost = (worker: ChildProcess): boolean =>
      ledger
        .noted('lost')
        .some((note) => note.startsWith(`slip-${round}-`) && note.endsWith(` ${worker.pid}`))
    const heir = sagasOn(opened.outbox, ledger.file, {
      // It shall not lose what it has taken over.
      bus: { lease: '5m' },
      // Both hold the event now: only the attempt number tells whose write counts.
      midway: () => until(() => workers.every(lost)),
    })
    for (let number = 0; number < SLIPS_OF_A_ROUND; number++) {
      const id = `slip-${round}-${number}`
      slips.push(id)
      await heir.engine.emit(heir.slip(id))
    }
    await Promise.all(
      workers.map(async (worker) => {
        await until(() => stalled(worker))
        await stall?.(worker)
      }),
    )
    await heir.bus.start()
    await until(() => takenOver(ledger.noted('execute'), round) >= WORKERS)
    for (const worker of workers) thaw?.(worker)
    await until(() => ledger.ended().size === slips.length)
    await heir.bus.stop()
    expect(workers.filter((worker) => !lost(worker))).toEqual([])
  }
  await settled(stage, slips)
  assertRepeatsExplained(ledger)
  return {
    stalls,
    slips: slips.length,
    'lost leases': ledger.noted('lost').length,
    'repeated runs': repeatedRuns(ledger),
  }
}

/** How many activities of a round another worker has begun again. */
function takenOver(executions: readonly string[], round: number): number {
  const runs = executions.filter((note) => note.startsWith(`slip-${round}-`))
  return runs.length - new Set(runs).size
}
