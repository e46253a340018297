import {
  activity,
  type Outbox,
  OutboxEventBus,
  type RoutingSlip,
  routingSlip,
  SagaEngine,
  type SagaEvents,
} from 'outbox-core'

const reserveStock = activity('reserve-stock', {
  async execute({ sku }: { sku: string }, { idempotencyKey }) {
    console.log(`reserving ${sku} under key ${idempotencyKey}`)
    return { log: { sku } }
  },
  async compensate({ sku }) {
    console.log(`releasing ${sku}`)
  },
})

const chargeCard = activity('charge-card', {
  async execute({ cents }: { cents: number }) {
    if (cents > 10_000) throw new Error('card declined')
  },
  retry: { maxAttempts: 2, delay: '10ms' },
})

/** The same two sagas on any outbox: one order completes, the other is compensated. */
export async function runOrders<Tx, O>(
  outbox: Outbox<Tx, O>,
  insertOrder: (tx: Tx, id: string) => unknown,
): Promise<void> {
  const bus = new OutboxEventBus<SagaEvents, Tx>(outbox as Outbox<Tx>)
  const engine = new SagaEngine({
    bus,
    store: outbox.sagaStore('7d'),
    activities: [reserveStock, chargeCard],
  })
  const ended = Promise.withResolvers<void>()
  bus.on('saga.completed', ({ payload }) => console.log(`${payload.slipId} completed`))
  bus.on('saga.compensated', ({ payload }) => {
    console.log(`${payload.slipId} compensated: ${payload.fault.message}`)
    ended.resolve()
  })

  await outbox.initialize()
  await bus.start()
  for (const [id, cents] of [
    ['order-1', 4_200],
    ['order-2', 42_000],
  ] as const) {
    await outbox.transaction(async (tx) => {
      await insertOrder(tx, id)
      await engine.emit(slip(id, cents))
    }) // the order, the event and its payload: all or none
  }
  await ended.promise
  await bus.stop()
}

function slip(id: string, cents: number): RoutingSlip {
  return routingSlip('order', id)
    .variables({ note: 'large enough for the saga store: '.repeat(500) })
    .add(reserveStock, { sku: 'chai' })
    .add(chargeCard, { cents })
}
