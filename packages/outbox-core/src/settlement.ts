import type { Settlement } from './storage.ts'

/** What a settlement makes of its event, said once for every database: adapters put it into their own words. */
export interface Change {
  /** The state that the event has to be in, with the settlement's attempt. */
  readonly from: 'leased' | 'dead'
  /** The state that it goes into. */
  readonly to: 'waiting' | 'done' | 'dead' | 'deleted'
  /** How long after now it is due again (waiting), or forgotten (done). */
  readonly inMs: number
  /** Replaces the error that it failed with last; null leaves that alone. */
  readonly error: string | null
  /** Which of its attempts count no longer. */
  readonly pardon: 'none' | 'one' | 'all'
  /** Whether it gives up its place in its key, and its key: the next one may be taken. */
  readonly yields: boolean
}

const DELETED = { from: 'leased', to: 'deleted', inMs: 0, error: null, pardon: 'none', yields: true } as const
const DISCARDED = { ...DELETED, from: 'dead' } as const
const REVIVED = { from: 'dead', to: 'waiting', inMs: 0, error: null, pardon: 'all', yields: false } as const

export function changeBy(settle: Settlement): Change {
  switch (settle.kind) {
    case 'complete':
      return settle.keepMs === 0 ? DELETED : { ...DELETED, to: 'done', inMs: settle.keepMs }
    case 'retry': {
      const { delayMs: inMs, error, counted } = settle
      return { from: 'leased', to: 'waiting', inMs, error, pardon: counted ? 'none' : 'one', yields: false }
    }
    case 'bury':
      return {
        from: 'leased',
        to: 'dead',
        inMs: 0,
        error: settle.error,
        pardon: 'none',
        yields: settle.skip ?? false,
      }
    case 'discard':
      return DISCARDED
    case 'revive':
      return REVIVED
  }
}

/** The key that a settlement lets go on, if there is one. */
export function keyYielded(settle: Settlement | undefined): string | undefined {
  return settle?.key != null && changeBy(settle).yields ? settle.key : undefined
}
