import type { When } from '../storage.ts'
import type { Fault, Variables } from './activity.ts'
import type { ItineraryStep } from './itinerary.ts'
import { InvalidSlipError, UnsupportedSlipError } from './slip-errors.ts'

/** A completed activity that can be compensated. */
export interface LogEntry {
  readonly step: number
  readonly activity: string
  readonly log?: unknown
}

/** Everything a saga knows, as it travels from step to step: the payload of its event. */
export interface SlipState {
  readonly v: 1
  readonly name: string
  readonly id: string
  readonly phase: 'execute' | 'compensate'
  /** Number of the next activity to execute. */
  readonly step: number
  /** What is left to do, the next activity first. */
  readonly itinerary: readonly ItineraryStep[]
  readonly variables: Variables
  /** What can be compensated, the latest last. */
  readonly log: readonly LogEntry[]
  readonly fault?: Fault
  /** Counted from the start until the first step has fixed it. */
  readonly deadline?: When
}

/** @throws InvalidSlipError when the payload of a step's event is not the state of a slip */
export function slipState(payload: unknown): SlipState {
  const state = payload as SlipState | null
  if (typeof state !== 'object' || state === null)
    throw new InvalidSlipError('the payload is no routing slip')
  if (state.v !== 1) {
    if (!Number.isInteger(state.v) || state.v < 1)
      throw new InvalidSlipError('the payload is no routing slip')
    throw new UnsupportedSlipError(
      `the routing slip has format ${state.v}, this version reads 1; update every worker`,
    )
  }
  const whole =
    typeof state.id === 'string' &&
    typeof state.name === 'string' &&
    (state.phase === 'execute' || state.phase === 'compensate') &&
    Number.isInteger(state.step) &&
    typeof state.variables === 'object' &&
    Array.isArray(state.itinerary) &&
    Array.isArray(state.log)
  if (!whole) throw new InvalidSlipError('the payload is not a whole routing slip')
  return state
}
