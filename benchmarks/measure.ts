import { cpus, totalmem } from 'node:os'

/** One way of doing a workload. */
export interface Arm {
  readonly name: string
  /** Prepares, does and checks the work; `time` is called around what counts. Returns how many operations that were. */
  run(time: <R>(work: () => Promise<R> | R) => Promise<R>): Promise<number>
}

/** The same work in several ways, on one server. The first arm is the floor: the raw driver by hand. */
export interface Workload {
  readonly name: string
  readonly arms: readonly Arm[]
  /** What ours should reach of the floor. */
  readonly target?: number
}

export interface Result {
  readonly workload: string
  readonly arm: string
  readonly opsPerSecond: { readonly median: number; readonly least: number; readonly most: number }
  readonly ofFloor: number
  readonly target?: number
}

/** Runs every arm in turn, so often that noise shows, and compares medians. */
export async function measure({ name, arms, target }: Workload, repetitions: number): Promise<Result[]> {
  const rates = arms.map((): number[] => [])
  for (let repetition = 0; repetition < repetitions; repetition++) {
    for (const [index, arm] of arms.entries()) {
      let ms = 0
      const operations = await arm.run(async (work) => {
        const started = performance.now()
        const result = await work()
        ms += performance.now() - started
        return result
      })
      rates[index]?.push((operations / ms) * 1000)
    }
  }
  const medians = rates.map(median)
  return arms.map((arm, index) => ({
    workload: name,
    arm: arm.name,
    opsPerSecond: {
      median: Math.round(medians[index] ?? 0),
      least: Math.round(Math.min(...(rates[index] ?? []))),
      most: Math.round(Math.max(...(rates[index] ?? []))),
    },
    ofFloor: Math.round(((medians[index] ?? 0) / (medians[0] ?? 1)) * 100) / 100,
    ...(target !== undefined && arm.name === 'ours' && { target }),
  }))
}

export function machine(): object {
  return {
    node: process.version,
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}

/** Throws when a run did not deliver exactly what it was given. */
export function assertDelivered(expected: number, actual: number): void {
  if (expected !== actual) throw new Error(`delivered ${actual} of ${expected}`)
}
