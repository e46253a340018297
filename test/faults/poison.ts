import { type Outbox, OutboxEventBus } from 'outbox-core'
import type { AdapterName } from './adapters/index.ts'

/** What each kind of event does to whoever handles it. */
export const POISONS = ['poison.throw', 'poison.hang', 'poison.exit', 'poison.allocate'] as const

interface Poisonous extends Record<(typeof POISONS)[number], { id: string }> {
  healthy: { id: string }
}

const ATTEMPTS = 3

/** @param adapter on a slow server a short lease runs out before its events are begun: attempts without a death */
export function poisonedOn(
  outbox: Outbox,
  note: (line: string) => void,
  adapter: AdapterName,
): OutboxEventBus<Poisonous> {
  const bus = new OutboxEventBus<Poisonous>(outbox, {
    lease: adapter === 'dynamodb' ? 2_000 : 400,
    poll: { max: 50 },
    retry: { maxAttempts: ATTEMPTS, delay: 1, maxDelay: 5 },
  })
  bus.on('poison.throw', ({ payload }) => {
    note(`tasted ${payload.id}`)
    throw new Error('poison')
  })
  bus.on(
    'poison.hang',
    ({ payload }) => {
      note(`tasted ${payload.id}`)
      return new Promise(() => {})
    },
    { timeout: 50 },
  )
  bus.on('poison.exit', ({ payload }) => {
    note(`tasted ${payload.id}`)
    process.exit(1)
  })
  bus.on('poison.allocate', ({ payload }) => {
    note(`tasted ${payload.id}`)
    const hoard: number[][] = []
    for (;;) hoard.push(new Array<number>(100_000).fill(hoard.length + 0.5))
  })
  // Who is leased beside an event that kills the process loses an attempt as well.
  bus.on('healthy', ({ payload }) => note(`handled ${payload.id}`), { retry: { maxAttempts: 1_000 } })
  return bus
}
