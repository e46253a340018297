import type { Database } from '../contender.ts'
import type { Workload } from '../measure.ts'
import { backlogs, besides } from './backlog.ts'
import { draining } from './drain.ts'
import { emitting } from './emit.ts'
import { endurance } from './endurance.ts'
import { idling } from './idle.ts'
import { keyed } from './keys.ts'
import { latencies } from './latency.ts'
import { steadyProducer } from './producer.ts'
import { sagas, startedSagas } from './sagas.ts'
import { storing } from './store.ts'

const IDLE_SECONDS = 30

// What is leased while a backlog is measured has to be there.
const LEAST_BACKLOG = 10_000

/** Everything that is measured on a database. */
export function workloadsOf(database: Database, { scale, minutes }: Extent): readonly Workload[] {
  return [
    ...emitting(database),
    ...draining(database),
    ...keyed(database),
    ...latencies(database),
    steadyProducer(database),
    ...sagas(database),
    startedSagas(database),
    ...storing(database),
    idling(database, Math.ceil(IDLE_SECONDS * Math.min(1, scale))),
    backlogs(database),
    besides(database),
    ...(minutes > 0 ? [endurance(database, minutes)] : []),
  ]
}

export interface Extent {
  /** Of how much each workload does; 1 is enough for a steady figure. */
  readonly scale: number
  /** Of the load under which memory is watched; 0 for none. */
  readonly minutes: number
}

/** The same database with less to do, or more. */
export function scaled(database: Database, scale: number): Database {
  const { sizes } = database
  const times = (size: number): number => Math.max(20, Math.round(size * scale))
  return {
    ...database,
    sizes: {
      ...sizes,
      emits: times(sizes.emits),
      drain: times(sizes.drain),
      sagas: times(sizes.sagas),
      payloads: times(sizes.payloads),
      backlogs: [...new Set(sizes.backlogs.map((backlog) => Math.max(LEAST_BACKLOG, times(backlog))))],
    },
  }
}
