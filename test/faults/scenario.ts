import { describe, inject, test } from 'vitest'
import { ADAPTER_NAMES, ADAPTERS, type AdapterName, type FaultAdapter } from './adapters/index.ts'
import { randomFrom } from './random.ts'
import { enter, type Stage } from './stage.ts'

const LONG = process.env['FAULTS'] === 'long'

/** What a scenario counted on one adapter: a row of the table that the reporter prints. */
export type Counts = Readonly<Record<string, number>>

declare module 'vitest' {
  interface TaskMeta {
    fault?: {
      readonly scenario: string
      readonly adapter: string
      readonly seed: number
      readonly counts: Counts
    }
  }
}

export interface ScenarioOptions {
  /** How often in CI. */
  readonly short: number
  /** For DynamoDB Local, which takes some hundred writes a second. @default short */
  readonly shortOnDynamoDB?: number
  /** How often with FAULTS=long. */
  readonly long: number
  /** @default all */
  readonly adapters?: readonly AdapterName[]
}

interface Run {
  readonly adapter: AdapterName
  /** Of the server; empty where there is none. */
  readonly url: string
  /** How often, events, kills: whatever the scenario counts in. */
  readonly amount: number
  /** The same for the same seed. */
  readonly random: () => number
  /** For what this machine lacks. */
  readonly skip: (note: string) => never
}

/** Does the same to every adapter, and keeps what was counted; `SEED=…` repeats a run. */
export function scenario(
  name: string,
  options: ScenarioOptions,
  run: (stage: Stage, run: Run) => Promise<Counts>,
): void {
  onServers(name, options, async (url, details) => {
    const stage = await enter(details.adapter, url)
    try {
      return await run(stage, details)
    } finally {
      await stage.leave()
    }
  })
}

/** As `scenario`, for what sets up its own stage. */
export function onServers(
  name: string,
  { short, shortOnDynamoDB = short, long, adapters = ADAPTER_NAMES }: ScenarioOptions,
  run: (url: string, run: Run) => Promise<Counts>,
): void {
  describe(name, () => {
    for (const adapter of adapters) {
      test(adapter, { timeout: LONG ? 14_400_000 : 1_200_000 }, async ({ skip, task }) => {
        const { server }: FaultAdapter = ADAPTERS[adapter]
        const url = server === undefined ? '' : inject('serverUrls')[server]
        if (url === undefined) return skip()
        const seed = inject('faultSeed')
        const inCI = server === 'dynamodb' ? shortOnDynamoDB : short
        const amount = LONG ? long : inCI
        const counts = await run(url, { adapter, url, amount, random: randomFrom(seed), skip })
        task.meta.fault = { scenario: name, adapter, seed, counts }
      })
    }
  })
}
