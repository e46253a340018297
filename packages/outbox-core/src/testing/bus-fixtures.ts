import { OutboxEventBus } from '../bus.ts'
import type { BusOptions } from '../delivering/bus-options.ts'
import type { Outbox } from '../outbox.ts'

type Events = Record<'work' | 'next' | 'other', { readonly n: number }>

const QUICK_RETRY = { delay: 1, maxDelay: 5 } as const

/** A bus that retries and polls quickly. */
export function busOn<Tx, O>(
  outbox: Outbox<Tx, O>,
  options: BusOptions<Events> = {},
): OutboxEventBus<Events, Tx> {
  return new OutboxEventBus<Events, Tx>(outbox as Outbox<Tx>, {
    retry: QUICK_RETRY,
    poll: { max: 50 },
    ...options,
  })
}
