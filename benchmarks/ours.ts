import { type Outbox, OutboxEventBus } from 'outbox-core'
import { keyOf, type OpenOptions, type Ours, type Payload } from './contender.ts'

type Events = { noop: Payload }

/** An outbox of ours on an open place. */
export interface OpenOutbox<Tx> {
  readonly place: string
  readonly outbox: Outbox<Tx>
  /** Writes one row of the user's own. */
  write(tx: Tx): unknown
  close(): Promise<void>
}

/** Ours as a contender, the same on every database. */
export function ours<Tx>({ place, outbox, write, close }: OpenOutbox<Tx>, { keys }: OpenOptions = {}): Ours {
  const bus = new OutboxEventBus<Events, Tx>(outbox)
  const store = outbox.sagaStore('7d')
  return {
    place,
    outbox: outbox as unknown as Outbox,
    emit: (payload) => bus.emit('noop', payload),
    emitInTransaction: (payload) =>
      outbox.transaction(async (tx) => {
        await write(tx)
        await bus.emit('noop', payload)
      }),
    emitMany: (payloads) =>
      bus.emitMany(
        payloads.map((payload) => ({
          type: 'noop',
          payload,
          ...(keys !== undefined && { key: keyOf(payload, keys) }),
        })),
      ),
    async consume(handle, concurrency) {
      const worker = new OutboxEventBus<Events, Tx>(outbox, { concurrency })
      worker.on('noop', ({ payload }) => handle(payload))
      await worker.start()
      return () => worker.stop()
    },
    async pending() {
      const { due, leased, blocked } = await outbox.stats()
      return due + leased + blocked
    },
    store: { put: (id, data) => store.put(id, data), get: (id) => store.get(id) },
    async close() {
      await outbox.close()
      await close()
    },
  }
}
