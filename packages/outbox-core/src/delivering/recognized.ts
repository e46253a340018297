import type { OutboxCore } from '../emitting/outbox-core.ts'
import type { Lease, Outcome, OutcomeResult } from '../storage.ts'
import { errFields } from '../thrown.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin } from './deadline.ts'

const APPLIED: OutcomeResult = { status: 'applied' }

/**
 * What became of outcomes, by the answer to their write. One that was applied although its answer was lost is called
 * lost when it is repeated, by us or by a driver; but what it leased is held.
 */
export async function recognized(
  { clock, logger, storage }: OutboxCore,
  { hardDeadlineMs, leaseMs }: Pick<DispatcherSettings, 'hardDeadlineMs' | 'leaseMs'>,
  outcomes: readonly Outcome[],
  results: readonly OutcomeResult[],
): Promise<readonly OutcomeResult[]> {
  if (results.every(({ status }) => status !== 'lost')) return results
  const leases = outcomes.map((outcome, index) => (results[index]?.status === 'lost' ? leased(outcome) : []))
  if (leases.every(({ length }) => length === 0)) return results
  try {
    const gone = new Set(
      await answeredWithin(clock, hardDeadlineMs, () => storage.extend(leases.flat(), leaseMs)),
    )
    return results.map((result, index) => (leases[index]?.some(({ id }) => !gone.has(id)) ? APPLIED : result))
  } catch (error) {
    logger.warn(errFields(error), 'what was leased meanwhile is left to run out')
    return results
  }
}

function leased({ append }: Outcome): Lease[] {
  return append.flatMap(({ id, leased: isLeased }) => (isLeased ? [{ id, attempt: 1 }] : []))
}
