import { addressOf } from '../emitting/address.ts'
import type { SlipState } from './slip-state.ts'

/** Where steps go that execute an activity. */
export function executeAddress(stepType: string, activity: string): string {
  return addressOf(stepType, activity)
}

/** Where steps go that compensate it: whoever can do the one need not be able to do the other. */
export function compensateAddress(stepType: string, activity: string): string {
  return addressOf(stepType, `${activity}#compensate`)
}

/** Where the next step of a slip goes. */
export function stepAddress(stepType: string, { phase, itinerary, log }: SlipState): string {
  const executed = itinerary[0]?.activity
  const compensated = log.at(-1)?.activity
  if (phase === 'execute') return executed === undefined ? stepType : executeAddress(stepType, executed)
  return compensated === undefined ? stepType : compensateAddress(stepType, compensated)
}
