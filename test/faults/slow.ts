import { setTimeout as sleep } from 'node:timers/promises'
import { type Outbox, OutboxEventBus } from 'outbox-core'

/** Ends soon; ends when its signal says so; never ends. */
export const SLOW = ['slow.brief', 'slow.polite', 'slow.stubborn'] as const

interface SlowEvents extends Record<(typeof SLOW)[number], { id: string; round: number }> {}

// Longer than any run: who has an event at once did not wait for a lease.
const LEASE = '10m'

const BRIEF_MS = 40

/** How long brief handlers are waited for. */
const PATIENCE_MS = 200

/** Handlers that are slow with the events of their own round, and done at once with what earlier rounds left. */
export function slowOn(
  outbox: Outbox,
  note: (line: string) => void,
  round: number,
): { readonly bus: OutboxEventBus<SlowEvents>; stop(): Promise<void> } {
  const bus = new OutboxEventBus<SlowEvents>(outbox, {
    lease: LEASE,
    poll: { max: 50 },
    concurrency: 3,
    batchSize: 3,
  })
  for (const type of SLOW) {
    bus.on(type, async ({ payload }, { signal, attempt }) => {
      note(`began ${payload.id} ${attempt}`)
      if (payload.round === round) await slowly(type, signal)
      note(`handled ${payload.id}`)
    })
  }
  return { bus, stop: () => bus.stop({ timeout: PATIENCE_MS }) }
}

async function slowly(type: (typeof SLOW)[number], signal: AbortSignal): Promise<void> {
  if (type === 'slow.brief') return sleep(BRIEF_MS)
  await new Promise((_, reject) => {
    if (type === 'slow.polite') signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
