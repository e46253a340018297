/** What becomes of the worker that runs an activity; the ways that follow belong to a run that is not disturbed. */
const MISHAPS = ['killed before it', 'frozen after it', 'killed when it is written'] as const

export type Mishap =
  | (typeof MISHAPS)[number]
  /** In the middle of each of its attempts. */
  | 'killed by it'
  /** Killed when it is written, and nobody is there until any deadline has passed. */
  | 'outage after it'

/** Ways of an activity that its slip goes on from, as long as it has anything left. */
export const GOING_ON = ['completes', 'flaky', 'slow', 'revises', 'plain'] as const

/** Ways that end what is left to execute. */
export const ENDING = ['shortens', 'terminates', 'throws', 'refuses'] as const

export type Way =
  | (typeof GOING_ON)[number]
  | (typeof ENDING)[number]
  /** Does not end before the slip's deadline does. */
  | 'overruns'

export const UNDOING = ['undoes', 'flaky', 'sticks'] as const

/** `sticks` fails for good until a human resumes it. */
type Undo = (typeof UNDOING)[number]

/** One step of a slip, and what befalls those who run it. It travels in the slip, as the activity's arguments. */
export interface Step {
  readonly way: Way
  readonly mishap?: Mishap
  readonly undo: Undo
  readonly undoMishap?: Mishap
}

export interface Script {
  readonly steps: readonly Step[]
  /** Whether the slip has a deadline; it is only met by `overruns` and `outage after it`. */
  readonly deadline: boolean
}

export const QUIET: Step = { way: 'completes', undo: 'undoes' }

const FAILING: Step = { ...QUIET, way: 'refuses' }

const AHEAD: readonly Step[] = [
  ...(['completes', 'flaky', 'revises'] as const).map((way) => ({ ...QUIET, way })),
  ...MISHAPS.map((mishap) => ({ ...QUIET, mishap })),
]

const LAST: readonly Step[] = [
  ...ENDING.map((way) => ({ ...QUIET, way })),
  { ...QUIET, way: 'slow' },
  { ...QUIET, way: 'plain' },
  { ...QUIET, mishap: 'killed by it' },
]

const LATE: readonly Step[] = [
  { ...QUIET, way: 'overruns' },
  { ...QUIET, mishap: 'outage after it' },
]

const UNDONE: readonly Partial<Step>[] = [
  { undo: 'flaky' },
  { undo: 'sticks' },
  ...MISHAPS.map((undoMishap) => ({ undoMishap })),
  { undoMishap: 'killed by it' },
]

/**
 * Every slip of up to `longest` steps that differs in what happens: each way and each mishap at each step, each way to
 * end and each way to fail after them, and once more each way and each mishap in each of the compensations.
 */
export function* everyScript(longest: number): Generator<Script> {
  for (let length = 1; length <= longest; length++) {
    for (const ahead of sequences(length - 1)) {
      const left = length < longest ? [QUIET] : []
      for (const last of AHEAD) yield { steps: [...ahead, last], deadline: false }
      for (const last of LAST) yield { steps: [...ahead, last, ...left], deadline: false }
      for (const last of LATE) yield { steps: [...ahead, last, ...left], deadline: true }
      for (const undone of withMishaps(ahead)) yield { steps: [...undone, FAILING, ...left], deadline: false }
    }
  }
}

function* sequences(length: number): Generator<readonly Step[]> {
  if (length === 0) return yield []
  for (const first of AHEAD) for (const rest of sequences(length - 1)) yield [first, ...rest]
}

function* withMishaps(steps: readonly Step[]): Generator<readonly Step[]> {
  for (const [at, step] of steps.entries()) {
    for (const change of UNDONE) yield steps.with(at, { ...step, ...change })
  }
}
