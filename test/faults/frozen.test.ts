import type { ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { assertRepeatsExplained, repeatedRuns } from './ledger.ts'
import { settled } from './load.ts'
import { GO_ON, type Stalling } from './points.ts'
import { sagasOn } from './sagas.ts'
import { type Counts, scenario } from './scenario.ts'
import { type Stage, until } from './stage.ts'

const WORKERS = 4
const LEASE_MS = 300

// More than the workers can lease ahead, so that each of them gets one.
const SLIPS_OF_A_ROUND = 12

scenario('process stopped', { short: 20, long: 500 }, (stage, { amount }) =>
  takeOver(stage, amount, {
    stalling: { kind: 'hold' },
    async stop(worker) {
      worker.kill('SIGSTOP')
      // Nobody takes over from a process that was stopped while it held SQLite's write lock.
      for (await sleep(1); stage.opened.isLocked?.(); await sleep(1)) {
        worker.kill('SIGCONT')
        await sleep(2)
        worker.kill('SIGSTOP')
      }
    },
    thaw(worker) {
      worker.kill(GO_ON)
      worker.kill('SIGCONT')
    },
  }),
)

scenario('event loop blocked', { short: 20, long: 500 }, (stage, { amount }) =>
  takeOver(stage, amount, { stalling: { kind: 'block', until: WORKERS, ms: 2 * LEASE_MS } }),
)

interface Freeze {
  readonly stalling: Stalling
  readonly stop?: (worker: ChildProcess) => Promise<void>
  readonly thaw?: (worker: ChildProcess) => void
}

/**
 * Four workers stall in the middle of an activity for longer than their lease; another one takes their events, and is in
 * the same activities when they come back to write what became of theirs.
 */
async function takeOver(stage: Stage, amount: number, { stalling, stop, thaw }: Freeze): Promise<Counts> {
  const { ledger, opened, start } = stage
  const workers = await Promise.all(
    Array.from({ length: WORKERS }, () =>
      start('work', { bus: { lease: LEASE_MS, concurrency: 1, batchSize: 1 }, stall: stalling }),
    ),
  )
  const slips: string[] = []
  let stalls = 0
  for (let round = 0; stalls < amount; round++, stalls += WORKERS) {
    const stalledIn = (worker: ChildProcess): string | undefined =>
      slipOf(ledger.noted('stalling'), round, worker)
    const lost = (worker: ChildProcess): boolean => slipOf(ledger.noted('lost'), round, worker) !== undefined
    const inherited = new Set<string>()
    const heir = sagasOn(opened.outbox, ledger.file, {
      // It shall not lose what it has taken over.
      bus: { lease: '5m' },
      async midway(_, slipId) {
        inherited.add(slipId)
        // Both hold the event now: only the attempt number tells whose write counts.
        await until(() => workers.every(lost))
      },
    })
    for (let number = 0; number < SLIPS_OF_A_ROUND; number++) {
      const id = `slip-${round}-${number}`
      slips.push(id)
      await heir.engine.emit(heir.slip(id))
    }
    await Promise.all(
      workers.map(async (worker) => {
        await until(() => stalledIn(worker) !== undefined)
        await stop?.(worker)
      }),
    )
    await heir.bus.start()
    await until(() => workers.every((worker) => inherited.has(stalledIn(worker) ?? '')))
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

/** The first slip of a round that a worker wrote down in such a note. */
function slipOf(notes: readonly string[], round: number, worker: ChildProcess): string | undefined {
  const isIts = (note: string): boolean =>
    note.startsWith(`slip-${round}-`) && note.endsWith(` ${worker.pid}`)
  return notes.find(isIts)?.split(' ', 1)[0]
}
