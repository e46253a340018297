import { activity, type Outbox, OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { type Arm, assertDelivered } from './measure.ts'

/** Opens an outbox on a fresh, empty place. */
export interface Fresh<Tx> {
  readonly outbox: Outbox<Tx>
  /** Writes one row of the user's own. */
  write(tx: Tx): unknown
  close(): Promise<void> | void
}

type Open<Tx> = () => Promise<Fresh<Tx>>

const EMIT_AT_ONCE = 500

async function fill<Tx>(bus: OutboxEventBus<Record<string, unknown>, Tx>, count: number): Promise<void> {
  for (let from = 0; from < count; from += EMIT_AT_ONCE) {
    const size = Math.min(EMIT_AT_ONCE, count - from)
    await bus.emitMany(
      Array.from({ length: size }, (_, index) => ({ type: 'noop', payload: { n: from + index } })),
    )
  }
}

/** Drains no-op events through a started bus. */
export function drain<Tx>(open: Open<Tx>, count: number, concurrency: number, fillInto = fill<Tx>): Arm {
  return {
    name: 'ours',
    async run(time) {
      const { outbox, close } = await open()
      const bus = new OutboxEventBus<Record<string, unknown>, Tx>(outbox, { concurrency })
      await fillInto(bus, count)
      const { promise, resolve } = Promise.withResolvers<void>()
      let handled = 0
      bus.on('noop', () => {
        if (++handled === count) resolve()
      })
      await time(async () => {
        await bus.start()
        await promise
        await bus.stop()
      })
      assertDelivered(count, handled)
      assertDelivered(0, (await outbox.stats()).due)
      await close()
      return count
    },
  }
}

/** A business row and an event in one transaction each. */
export function emitInTransaction<Tx>(open: Open<Tx>, count: number): Arm {
  return {
    name: 'ours',
    async run(time) {
      const { outbox, write, close } = await open()
      const bus = new OutboxEventBus<Record<string, unknown>, Tx>(outbox)
      await time(async () => {
        for (let n = 0; n < count; n++) {
          await outbox.transaction(async (tx) => {
            await write(tx)
            await bus.emit('noop', { n })
          })
        }
      })
      assertDelivered(count, (await outbox.stats()).due)
      await close()
      return count
    },
  }
}

/** Sagas of three steps; counts steps. */
export function sagas<Tx>(open: Open<Tx>, count: number, slipBytes: number): Arm {
  return {
    name: 'ours',
    async run(time) {
      const { outbox, close } = await open()
      const bus = new OutboxEventBus<SagaEvents, Tx>(outbox, { concurrency: 20 })
      const step = activity('step', { execute: () => {}, compensate: () => {} })
      const engine = new SagaEngine({ bus, store: outbox.sagaStore('7d'), activities: [step] })
      const pad = 'payload '.repeat(slipBytes / 8)
      const slip = routingSlip('bench').variables({ pad }).add(step, {}).add(step, {}).add(step, {})
      for (let started = 0; started < count; started++) await engine.emit(slip)
      const { promise, resolve } = Promise.withResolvers<void>()
      let completed = 0
      bus.on('saga.completed', () => {
        if (++completed === count) resolve()
      })
      await time(async () => {
        await bus.start()
        await promise
        await bus.stop()
      })
      assertDelivered(count, completed)
      assertDelivered(0, (await outbox.stats()).due)
      await close()
      return count * 3
    },
  }
}
