/** What a run measured, by metric: `{ 'ops/s': 1200 }`. */
export type Metrics = Readonly<Record<string, number>>

/** `floor` is the raw driver by hand, `peer` what one would pick instead, `other` what is only there to compare. */
export type Role = 'floor' | 'ours' | 'peer' | 'other'

/** One way of doing a workload: prepares, does and checks it. */
interface Trial {
  readonly arm: string
  readonly role: Role
  run(): Promise<Metrics>
}

/** What ours should reach. */
export interface Target {
  readonly metric: string
  /** For latencies and loads. */
  readonly lowerIsBetter?: boolean
  /** Of what the floor reaches. */
  readonly ofFloor?: number
  /** Of what each peer reaches. */
  readonly ofPeers?: number
  readonly atMost?: number
  readonly atLeast?: number
  /** Between the arms of the workload, the largest over the least. */
  readonly within?: number
}

/** The same work in several ways, on one server. */
export interface Workload {
  readonly name: string
  readonly database: string
  readonly trials: readonly Trial[]
  readonly targets?: readonly Target[]
  /** For what takes long: repeated no more often than this. */
  readonly atMost?: number
}

export interface Result {
  readonly database: string
  readonly workload: string
  readonly arm: string
  readonly role: Role
  readonly metric: string
  readonly median: number
  readonly least: number
  readonly most: number
}

export interface Measured {
  readonly results: readonly Result[]
  /** Runs that threw, or did not deliver exactly what they were given. */
  readonly failures: readonly string[]
}

/** The share of a workload that goes before it, so that code is compiled as in a service that has run for a while. */
export const WARM_UP_SHARE = 0.2

/** Runs every arm in turn, so often that noise shows. */
export async function measure(workload: Workload, repetitions: number): Promise<Measured> {
  const { name, database, trials, atMost = repetitions } = workload
  const runs = trials.map((): Metrics[] => [])
  const failures: string[] = []
  for (let repetition = 0; repetition < Math.min(repetitions, atMost); repetition++) {
    for (const [index, { arm, run }] of trials.entries()) {
      try {
        runs[index]?.push(await run())
      } catch (error) {
        failures.push(`${database}: ${name}, ${arm}: ${error instanceof Error ? error.stack : error}`)
      }
    }
  }
  const results = trials.flatMap(({ arm, role }, index) =>
    summaries(runs[index] ?? []).map((summary) => ({ database, workload: name, arm, role, ...summary })),
  )
  return { results, failures }
}

function summaries(runs: readonly Metrics[]): Pick<Result, 'metric' | 'median' | 'least' | 'most'>[] {
  return Object.keys(runs[0] ?? {}).map((metric) => {
    const values = runs.map((metrics) => metrics[metric] ?? Number.NaN)
    return { metric, median: median(values), least: Math.min(...values), most: Math.max(...values) }
  })
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5)
}

/** The value that the share `of` of all values does not exceed. */
export function percentile(values: readonly number[], of: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * of) - 1)] ?? Number.NaN
}

/** How long `work` takes, in milliseconds. */
export async function timed(work: () => unknown): Promise<number> {
  const started = performance.now()
  await work()
  return performance.now() - started
}

/** The slope of a line through points, by least squares. */
export function slope(points: readonly (readonly [number, number])[]): number {
  const mean = (of: 0 | 1): number => points.reduce((sum, point) => sum + point[of], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const covariance = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  const variance = points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
  return covariance / variance
}
