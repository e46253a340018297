import { errorFields } from '../thrown.ts'
import type { LifecycleEvent } from './lifecycle.ts'
import type { SlipState } from './slip-state.ts'

/** What there is to tell when a slip becomes a dead letter: it stands still, and nothing is compensated meanwhile. */
export function buriedSlip(state: SlipState, reason: Error): LifecycleEvent | undefined {
  const { id: slipId, name: slipName, phase, fault, log, itinerary } = state
  const { message: error } = errorFields(reason)
  if (phase === 'execute') {
    const activity = itinerary[0]?.activity
    const payload = { slipId, slipName, step: state.step, ...(activity !== undefined && { activity }), error }
    return { kind: 'stuck', payload }
  }
  const entry = log.at(-1)
  if (!entry || !fault) return undefined
  const { step, activity } = entry
  return { kind: 'compensationFailed', payload: { slipId, slipName, fault, step, activity, error } }
}
