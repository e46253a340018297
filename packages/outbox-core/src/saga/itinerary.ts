/** As much of an activity, or of its contract, as an itinerary needs to know: its name, and what its arguments are. */
export interface AnyActivity<Args> {
  readonly name: string
  execute?(args: Args, ...context: never[]): unknown
}

/** The arguments of an activity; none where it takes none. */
export type ArgsOf<Args> = unknown extends Args
  ? [args?: unknown]
  : undefined extends Args
    ? [args?: Args]
    : [args: Args]

/** One step of an itinerary: an activity's name and its arguments. */
export interface ItineraryStep {
  readonly activity: string
  readonly args: unknown
}

/** Activities in the order in which they will run. Immutable: every call returns a new one. */
export class Itinerary {
  readonly steps: readonly ItineraryStep[]

  constructor(steps: readonly ItineraryStep[] = []) {
    this.steps = steps
  }

  /** Appends an activity. The same one may be added many times. */
  add<Args>(activity: AnyActivity<Args>, ...[args]: ArgsOf<Args>): Itinerary {
    return new Itinerary([...this.steps, { activity: activity.name, args }])
  }
}

/** An empty itinerary, for an activity that replaces the rest of its slip. */
export function itinerary(): Itinerary {
  return new Itinerary()
}
