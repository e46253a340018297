import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Book } from './book.ts'
import { assertCourse } from './check.ts'
import { type Ground, inMemory, inSqlite } from './ground.ts'
import { type Course, courseOf } from './model.ts'
import { ENDING, GOING_ON, type Script, type Step, UNDOING, type Way } from './script.ts'
import { MOST_FAULTS, weathered } from './stormy.ts'
import { FAULTS, Weather } from './weather.ts'

const LONG = process.env['FAULTS'] === 'long'
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

const ways = (deadline: boolean): readonly Way[] => [
  ...GOING_ON,
  ...GOING_ON,
  ...ENDING,
  ...(deadline ? (['overruns'] as const) : []),
]

const scripts: fc.Arbitrary<Script> = fc.boolean().chain((deadline) =>
  fc.record({
    deadline: fc.constant(deadline),
    steps: fc.array<Step>(
      fc.record({ way: fc.constantFrom(...ways(deadline)), undo: fc.constantFrom(...UNDOING) }),
      { minLength: 1, maxLength: 8 },
    ),
  }),
)

const faults = fc.array(fc.record({ call: fc.nat({ max: 80 }), kind: fc.constantFrom(...FAULTS) }), {
  maxLength: MOST_FAULTS,
})

/** Faults add runs and change the last attempt of what fails anyway: the order of what ran is the same. */
function withoutRepeats(runs: readonly string[]): readonly string[] {
  return [...new Set(runs.map((run) => run.split(' ').slice(0, 2).join(' ')))]
}

/** A step whose attempts all fail waits for a human before that where the worker of its last one was killed. */
function withStuck(course: Course, book: Book): Course {
  const stuck = [...book.told.values()].filter(({ kind }) => kind === 'stuck')
  const told = course.told.flatMap((one) => (one.kind === 'faulted' ? [...stuck, one] : [one]))
  return { ...course, told, burials: course.burials + stuck.length }
}

const AMOUNTS = [
  ['in memory', LONG ? 100_000 : 1_000, inMemory],
  ['sqlite', LONG ? 2_000 : 50, inSqlite],
] as const

for (const [name, numRuns, open] of AMOUNTS) {
  test(`a saga on two workers in any weather, ${name}`, { timeout: LONG ? 14_400_000 : 1_200_000 }, async ({
    task,
  }) => {
    let lost = 0
    let repeated = 0
    const play = async (script: Script, weather: Weather, ground: Ground): Promise<void> => {
      const book = await weathered(script, ground, weather)
      const course = courseOf(script)
      const ran = withoutRepeats(book.runs)
      expect(ran).toEqual(withoutRepeats(course.runs))
      assertCourse(book, ground, withStuck(course, book))
      lost += book.lost
      repeated += book.runs.length - ran.length
    }
    await fc.assert(
      fc.asyncProperty(scripts, faults, fc.scheduler(), async (script, misfortunes, scheduler) => {
        const ground = await open()
        try {
          await play(script, new Weather(scheduler, ground, misfortunes), ground)
        } finally {
          ground.close()
        }
      }),
      { numRuns, seed: SEED, endOnFailure: true },
    )
    expect(lost).toBeGreaterThan(0)
    task.meta.fault = {
      scenario: 'saga engine, two workers, any interleaving',
      adapter: name,
      seed: SEED,
      counts: { sagas: numRuns, 'lost outcomes refused': lost, 'repeated runs': repeated },
    }
  })
}
