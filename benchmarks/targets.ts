import type { Result, Target, Workload } from './measure.ts'

/** Whether a target was met, and how far. */
export interface Verdict {
  readonly database: string
  readonly workload: string
  readonly wanted: string
  readonly reached: number
  readonly met: boolean
}

/** Judges every target of a workload that its results allow to judge. */
export function verdicts({ name, database, targets = [] }: Workload, results: readonly Result[]): Verdict[] {
  return targets.flatMap((target) => {
    const compared = results.filter(({ metric }) => metric === target.metric)
    const checks = [...ofFloor(target, compared), ...ofPeers(target, compared), ...ofOurs(target, compared)]
    return checks.map((check) => ({ database, workload: name, ...check }))
  })
}

type Check = Pick<Verdict, 'wanted' | 'reached' | 'met'>

/** How many times as good ours is. */
export function ratio(ours: number, other: number, lowerIsBetter = false): number {
  return lowerIsBetter ? other / ours : ours / other
}

function ofFloor({ metric, ofFloor: least, lowerIsBetter }: Target, results: readonly Result[]): Check[] {
  const ours = results.find(({ role }) => role === 'ours')
  const floor = results.find(({ role }) => role === 'floor')
  if (least === undefined || !ours || !floor) return []
  const reached = ratio(ours.median, floor.median, lowerIsBetter)
  return [{ wanted: `${metric}: at least ${least} of ${floor.arm}`, reached, met: reached >= least }]
}

function ofPeers({ metric, ofPeers: least, lowerIsBetter }: Target, results: readonly Result[]): Check[] {
  const ours = results.find(({ role }) => role === 'ours')
  if (least === undefined || !ours) return []
  return results
    .filter(({ role }) => role === 'peer')
    .map(({ arm, median }) => {
      const reached = ratio(ours.median, median, lowerIsBetter)
      return {
        wanted: `${metric}: at least ${least} times as good as ${arm}`,
        reached,
        met: reached >= least,
      }
    })
}

function ofOurs({ metric, atMost, atLeast, within }: Target, results: readonly Result[]): Check[] {
  const values = results.filter(({ role }) => role === 'ours').map(({ median }) => median)
  if (values.length === 0) return []
  const checks: Check[] = []
  if (atMost !== undefined) {
    const reached = Math.max(...values)
    checks.push({ wanted: `${metric}: at most ${atMost}`, reached, met: reached <= atMost })
  }
  if (atLeast !== undefined) {
    const reached = Math.min(...values)
    checks.push({ wanted: `${metric}: at least ${atLeast}`, reached, met: reached >= atLeast })
  }
  if (within !== undefined) {
    const reached = Math.max(...values) / Math.min(...values)
    checks.push({
      wanted: `${metric}: all within ${within} times the least`,
      reached,
      met: reached <= within,
    })
  }
  return checks
}
