import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Ground, inMemory, inSqlite } from '../engine/ground.ts'
import type {} from '../faults/scenario.ts'
import { type Played, play, type Script } from './course.ts'
import { type Fault, KINDS, type Kind } from './faults.ts'
import { WAYS } from './worker.ts'

const LONG = process.env['FAULTS'] === 'long'
// The short run is the same for everybody, so that a change is judged by what it changed; the long one looks further.
const SEED = Number(process.env['SEED'] ?? (LONG ? Date.now() % 1_000_000 : 4711))

/** So many of the first calls of a run get every fault; what comes later is mostly polling. */
const MOST_CALLS = LONG ? 60 : 12

/** So many get two. */
const FIRST = 6

/** Two faults in one run: once each, and only what differs in what is applied and what is told. */
const PAIRED: readonly Kind[] = ['refused', 'failed', 'unknown', 'hung before', 'hung after', 'late']

const ALONE = { together: false, slip: false, workers: 1 } as const

const SCRIPTS: Readonly<Record<string, Script>> = {
  ...Object.fromEntries(WAYS.map((way) => [way, { ...ALONE, jobs: [way] }])),
  'several in a transaction': { ...ALONE, jobs: ['succeeds', 'fails once'], together: true },
  'two workers': { ...ALONE, jobs: ['succeeds', 'takes long', 'fails for good'], workers: 2 },
  slip: { ...ALONE, jobs: [], slip: true },
  'slip in a store of its own': { ...ALONE, jobs: [], slip: true, ownStore: true },
}

const RUNS = Number(process.env['RUNS'] ?? (LONG ? 20_000 : 200))

/** Name, random runs, whether runs meet two faults as well. */
const GROUNDS: readonly (readonly [string, number, boolean, () => Ground | Promise<Ground>])[] = [
  ['in memory', RUNS, true, inMemory],
  ['sqlite', Math.ceil(RUNS / 10), LONG, inSqlite],
]

async function played(
  script: Script,
  plan: readonly Fault[],
  open: () => Ground | Promise<Ground>,
): Promise<Played> {
  const ground = await open()
  try {
    return await play(script, plan, ground)
  } finally {
    ground.close()
  }
}

function report({ wrong, trace }: Played, script: Script, plan: readonly Fault[]): string {
  return [...wrong, `script: ${JSON.stringify(script)}`, `faults: ${JSON.stringify(plan)}`, ...trace].join(
    '\n',
  )
}

/** Every plan of one fault, then every one of two: the shortest that fails is met first. */
function* plans(calls: number, paired: boolean): Generator<readonly Fault[]> {
  for (let call = 0; call < calls; call++)
    for (const kind of KINDS) for (const lasts of [false, true]) yield [{ call, kind, lasts }]
  if (!paired) return
  const first = Math.min(calls, FIRST)
  for (let call = 0; call < first; call++)
    for (let other = call + 1; other < first; other++)
      for (const kind of PAIRED)
        for (const second of PAIRED)
          yield [
            { call, kind },
            { call: other, kind: second },
          ]
}

for (const [name, numRuns, paired, open] of GROUNDS) {
  for (const [title, script] of Object.entries(SCRIPTS)) {
    test(`${title}: every fault of a storage at every call, ${name}`, { timeout: 1_200_000 }, async ({
      task,
    }) => {
      const healthy = await played(script, [], open)
      expect(healthy.wrong, report(healthy, script, [])).toEqual([])
      let courses = 1
      for (const plan of plans(Math.min(healthy.calls, MOST_CALLS), paired)) {
        const course = await played(script, plan, open)
        if (course.wrong.length > 0) throw new Error(report(course, script, plan))
        courses++
      }
      task.meta.fault = {
        scenario: `storage faults: ${title}`,
        adapter: name,
        seed: 0,
        counts: { courses, calls: healthy.calls },
      }
    })
  }

  const scripts: fc.Arbitrary<Script> = fc.record({
    jobs: fc.array(fc.constantFrom(...WAYS), { maxLength: 5 }),
    together: fc.boolean(),
    slip: fc.boolean(),
    ownStore: fc.boolean(),
    workers: fc.integer({ min: 1, max: 2 }),
  })
  const faults: fc.Arbitrary<readonly Fault[]> = fc.array(
    fc.record({ call: fc.nat({ max: 80 }), kind: fc.constantFrom(...KINDS), lasts: fc.boolean() }),
    { maxLength: 6 },
  )

  test(`any faults of a storage in any run, ${name}`, { timeout: 14_400_000 }, async ({ task }) => {
    let met = 0
    const property = fc.asyncProperty(scripts, faults, async (script, plan) => {
      const course = await played(script, plan, open)
      met += course.met.length
      if (course.wrong.length > 0) throw new Error(report(course, script, plan))
    })
    await fc.assert(property, { numRuns, seed: SEED })
    expect(met).toBeGreaterThan(numRuns)
    task.meta.fault = {
      scenario: 'storage faults, any run',
      adapter: name,
      seed: SEED,
      counts: { courses: numRuns, faults: met },
    }
  })
}
