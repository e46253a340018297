import { type Duration, durationMs } from '../options.ts'
import type { When } from '../storage.ts'
import type { Variables } from './activity.ts'
import { type AnyActivity, type ArgsOf, Itinerary } from './itinerary.ts'
import { EmptyItineraryError, InvalidSlipError } from './slip-errors.ts'

type SlipParts = Pick<RoutingSlip, 'itinerary' | 'initialVariables' | 'dueBy'>

/** What to do, for one saga: its activities, its variables, its deadline. Immutable: every call returns a new one. */
export class RoutingSlip {
  readonly name: string
  /** Set when the caller chose it. */
  readonly id: string | undefined
  readonly itinerary: Itinerary
  readonly initialVariables: Variables
  readonly dueBy: When | undefined

  constructor(name: string, id?: string, parts: Partial<SlipParts> = {}) {
    this.name = name
    this.id = id
    this.itinerary = parts.itinerary ?? new Itinerary()
    this.initialVariables = parts.initialVariables ?? {}
    this.dueBy = parts.dueBy
  }

  /** Appends an activity with its arguments. The same one may be added many times. */
  add<Args>(activity: AnyActivity<Args>, ...args: ArgsOf<Args>): RoutingSlip {
    return this.#with({ itinerary: this.itinerary.add(activity, ...args) })
  }

  /** Adds variables that every activity can read. */
  variables(variables: Variables): RoutingSlip {
    return this.#with({ initialVariables: { ...this.initialVariables, ...variables } })
  }

  /**
   * Compensates the slip when it has not ended by then: a moment, or a time counted from `engine.emit`. A running
   * activity is aborted at the deadline.
   */
  deadline(deadline: Date | Duration): RoutingSlip {
    if (!(deadline instanceof Date)) return this.#with({ dueBy: { inMs: durationMs('deadline', deadline) } })
    const at = deadline.getTime()
    if (Number.isNaN(at)) throw new InvalidSlipError('the deadline is not a valid Date')
    return this.#with({ dueBy: { at } })
  }

  /** @throws EmptyItineraryError */
  assertNotEmpty(): void {
    if (this.itinerary.steps.length > 0) return
    throw new EmptyItineraryError(`routing slip "${this.name}" has no activity; add one before emitting it`)
  }

  #with(changes: Partial<SlipParts>): RoutingSlip {
    return new RoutingSlip(this.name, this.id, { ...this, ...changes })
  }
}

/**
 * Begins a routing slip: `routingSlip('order', order.id).add(reserveStock, { … }).add(chargeCard, { … })`.
 *
 * @param name what kind of slip it is, for logs and lifecycle events
 * @param id makes the start repeatable: the same slip emitted again is not started a second time (default: a UUID).
 *   1 to 200 visible ASCII characters
 * @throws InvalidSlipError
 */
export function routingSlip(name: string, id?: string): RoutingSlip {
  if (typeof name !== 'string' || name.length === 0 || name.length > 128) {
    throw new InvalidSlipError('a routing slip needs a name of 1 to 128 characters')
  }
  if (id !== undefined && (typeof id !== 'string' || !/^[\x21-\x7e]{1,200}$/.test(id))) {
    throw new InvalidSlipError('a routing slip id has 1 to 200 visible ASCII characters')
  }
  return new RoutingSlip(name, id)
}
