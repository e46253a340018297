import { type Mishap, QUIET, type Script, type Step } from './script.ts'

/** How often an activity or a compensation is tried. */
export const ATTEMPTS = 3

/** A lifecycle event, without what is the same in all of them. */
export interface Told {
  readonly kind: string
  readonly [detail: string]: unknown
}

/** What must come of a script. */
export interface Course {
  /** `execute 0 1`: phase, step, attempt; in order. */
  readonly runs: readonly string[]
  readonly told: readonly Told[]
  /** How many events of the slip were completed, each by what comes after it. */
  readonly transitions: number
  /** How often it waited for a human. */
  readonly burials: number
}

interface Saga extends Course {
  readonly queue: readonly Step[]
  /** Number of the next step. */
  readonly step: number
  /** What can be undone, the latest last. */
  readonly done: readonly { readonly step: number; readonly of: Step }[]
  readonly variables: Readonly<Record<string, number>>
  readonly late: boolean
  /** How many attempts of the next step a worker has taken that died before it could begin. */
  readonly taken: number
  readonly fault?: object
  readonly over: boolean
}

/** The course of a script: a saga as it is meant, with neither database nor time. */
export function courseOf({ steps, deadline }: Script): Course {
  let saga: Saga = {
    ...{ queue: steps, step: 0, done: [], variables: {}, late: false, taken: 0, over: false },
    ...{ runs: [], told: [], transitions: 0, burials: 0 },
  }
  while (!saga.over) saga = saga.fault ? compensated(saga) : executed(saga, deadline)
  const { runs, told, transitions, burials } = saga
  return { runs, told, transitions, burials }
}

function executed(saga: Saga, deadline: boolean): Saga {
  const [current = QUIET, ...rest] = saga.queue
  if (saga.late) return failed(saga, { step: saga.step, name: 'DeadlineError' })
  const { step } = saga
  const activity = activityOf(current)
  const stuck = current.mishap === 'killed by it'
  const once = attempts('execute', step, executions(current), saga.taken)
  const tried: Saga = {
    ...saga,
    runs: [...saga.runs, ...once, ...(stuck ? attempts('execute', step, 1) : [])],
    told: stuck ? [...saga.told, { kind: 'stuck', step, activity }] : saga.told,
    burials: saga.burials + (stuck ? 1 : 0),
  }
  const error = errorOf(current)
  if (error) return failed(tried, { step, name: error, activity })
  const variables = { ...saga.variables, [`did-${step}`]: step }
  const completed: Saga = {
    ...tried,
    ...{ variables, step: step + 1, queue: queueAfter(current, rest) },
    done: current.way === 'plain' ? saga.done : [...saga.done, { step, of: current }],
    transitions: saga.transitions + 1,
    told: [...tried.told, { kind: 'stepCompleted', step, activity }],
    late: deadline && current.mishap === 'outage after it',
    taken: takenBy(current.mishap),
  }
  if (current.way === 'terminates')
    return ending(completed, { kind: 'terminated', reason: 'enough', variables })
  return completed.queue.length > 0 ? completed : ending(completed, { kind: 'completed', variables })
}

function compensated(saga: Saga): Saga {
  const last = saga.done.at(-1)
  if (!last) return ending(saga, { kind: 'compensated', fault: saga.fault })
  const { step, of } = last
  const stuck = of.undo === 'sticks' || of.undoMishap === 'killed by it'
  const once = attempts('compensate', step, stuck ? ATTEMPTS : undoings(of), saga.taken)
  const done = saga.done.slice(0, -1)
  const next: Saga = {
    ...saga,
    done,
    taken: takenBy(of.undoMishap),
    transitions: saga.transitions + 1,
    burials: saga.burials + (stuck ? 1 : 0),
    runs: [...saga.runs, ...once, ...(stuck ? attempts('compensate', step, 1) : [])],
    told: stuck ? [...saga.told, { kind: 'compensationFailed', step, fault: saga.fault }] : saga.told,
  }
  return done.length > 0 ? next : ending(next, { kind: 'compensated', fault: saga.fault })
}

function failed(saga: Saga, fault: object): Saga {
  const told = [...saga.told, { kind: 'faulted', fault }]
  return { ...saga, fault, told, taken: 0, transitions: saga.transitions + 1 }
}

function ending(saga: Saga, told: Told): Saga {
  return { ...saga, over: true, told: [...saga.told, told] }
}

function errorOf({ way }: Step): string | undefined {
  if (way === 'throws') return 'Error'
  if (way === 'refuses') return 'PermanentError'
  return way === 'overruns' ? 'DeadlineError' : undefined
}

function queueAfter({ way }: Step, rest: readonly Step[]): readonly Step[] {
  if (way === 'revises') return [...rest, QUIET]
  return way === 'shortens' ? [] : rest
}

/** Which activity runs a step. */
export function activityOf({ way }: Step): 'plain' | 'long' | 'usual' {
  if (way === 'plain') return 'plain'
  return way === 'overruns' ? 'long' : 'usual'
}

function executions({ way, mishap }: Step): number {
  if (mishap === 'killed by it' || way === 'throws') return ATTEMPTS
  const again = mishap === 'killed before it' || mishap === 'frozen after it'
  return way === 'flaky' || way === 'slow' || again ? 2 : 1
}

function undoings({ undo, undoMishap }: Step): number {
  const again = undoMishap === 'killed before it' || undoMishap === 'frozen after it'
  return undo === 'flaky' || again ? 2 : 1
}

// The write that settles a step also leases the next one to its worker.
function takenBy(mishap: Mishap | undefined): number {
  return mishap === 'killed when it is written' || mishap === 'outage after it' ? 1 : 0
}

function attempts(phase: string, step: number, count: number, taken = 0): string[] {
  const last = Math.min(taken + count, ATTEMPTS)
  return Array.from({ length: last - taken }, (_, index) => `${phase} ${step} ${taken + index + 1}`)
}
