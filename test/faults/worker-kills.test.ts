import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { assertRepeatsExplained, repeatedRuns } from './ledger.ts'
import { emitSlips, inParallel, settled } from './load.ts'
import { POINTS, type Point } from './points.ts'
import { scenario } from './scenario.ts'
import { end, ended } from './stage.ts'

// Most of a process's short life is its start, and its last moments are a wait for its point.
const WIDTH = 6

const ENOUGH_TO_DO = 2 * WIDTH

/** Where a handler had run and nothing of it was written: it has to run again. */
const REPEATED: readonly Point[] = ['executing', 'finished', 'compensating']

scenario(
  'worker killed',
  { short: 60, shortOnDynamoDB: 20, long: 2_000 },
  async (stage, { amount, random }) => {
    const { ledger, start } = stage
    const slips: string[] = []
    const more = async (): Promise<void> => {
      const ids = [`slip-${slips.length}0`, `slip-${slips.length}3`]
      slips.push(...ids)
      await emitSlips(stage, ids)
    }
    await inParallel(amount, WIDTH, async (number) => {
      const point = POINTS[number % POINTS.length] ?? 'leased'
      const child = await start('work', {
        bus: { lease: 500, concurrency: 4, batchSize: 4 },
        fatality: { point, nth: 1 + Math.floor(random() * 3) },
      })
      // It goes on until it comes to its point, which may take more than is left of the slips.
      while (!ended(child)) {
        if (slips.length - ledger.ended().size < ENOUGH_TO_DO) await more()
        await Promise.race([end(child), sleep(300)])
      }
      expect([point, child.signalCode]).toEqual([point, 'SIGKILL'])
    })
    const killed = ledger.noted('killed')
    const kills = Object.fromEntries(
      POINTS.map((point) => [point, killed.filter((other) => other === point).length]),
    )
    await start('work')
    await settled(stage, slips)
    assertRepeatsExplained(ledger)
    const repeats = repeatedRuns(ledger)
    expect(repeats).toBeGreaterThanOrEqual((amount / POINTS.length) * REPEATED.length)
    return { ...kills, slips: slips.length, 'repeated runs': repeats }
  },
)
