import { setTimeout as sleep } from 'node:timers/promises'
import { type Arm, type Database, using } from '../contender.ts'
import type { Metrics, Workload } from '../measure.ts'

// By then the pauses between polls are as long as they get.
const CALM_AFTER_MS = 3_000

/** What a bus costs that has nothing to do. */
export function idling({ name, ours }: Database, seconds: number): Workload {
  return {
    name: `idle for ${seconds} s`,
    database: name,
    atMost: 1,
    targets: [{ metric: 'queries/s', atMost: 1 }],
    trials: [false, true].map((listen) => ({
      arm: listen ? 'ours, woken by other processes' : 'ours, polling',
      role: ours.role,
      run: () => idle(ours, listen, seconds),
    })),
  }
}

function idle(arm: Arm, listen: boolean, seconds: number): Promise<Metrics> {
  let calls = 0
  return using(arm, { listen, onCall: () => void calls++ }, async (contender) => {
    const stop = await contender.consume(() => {}, 24)
    await sleep(CALM_AFTER_MS)
    calls = 0
    const cpu = process.cpuUsage()
    await sleep(seconds * 1000)
    const { user, system } = process.cpuUsage(cpu)
    const metrics = { 'queries/s': calls / seconds, 'CPU, %': ((user + system) / 1e6 / seconds) * 100 }
    await stop()
    return metrics
  })
}
