import type { StandardSchemaV1 } from '@standard-schema/spec'
import { expect, expectTypeOf, test } from 'vitest'
import {
  activity,
  activityContract,
  InMemoryOutbox,
  itinerary,
  OutboxEventBus,
  routingSlip,
  type SchemaEvents,
  type Stored,
} from '../src/index.ts'

interface Order {
  readonly id: string
  readonly at: Date
  readonly lines: readonly { readonly sku: string; readonly note?: string | undefined }[]
  total(): number
}

// What is checked here is checked by the compiler; that the code runs as well is a bonus.

test('what is read back is typed as JSON gives it back', () => {
  expectTypeOf<Stored<Order>>().toEqualTypeOf<{
    readonly id: string
    readonly at: string
    readonly lines: readonly { readonly sku: string; readonly note?: string | undefined }[]
  }>()
  expectTypeOf<Stored<unknown>>().toEqualTypeOf<unknown>()
  expectTypeOf<Stored<[Date, 'a' | 1 | null]>>().toEqualTypeOf<[string, 'a' | 1 | null]>()
  expectTypeOf<Stored<{ map: Map<string, string> }>>().toEqualTypeOf<{ map: never }>()
})

test('handlers get a Date as text', async () => {
  const bus = new OutboxEventBus<{ placed: Order; noted: { by: string } }>(
    new InMemoryOutbox({ logger: false }),
  )
  bus.on('placed', ({ payload }) => {
    expectTypeOf(payload.at).toEqualTypeOf<string>()
    // @ts-expect-error it is no Date any more
    expect(payload.at.getTime).toBeUndefined()
  })
  bus.on('noted', ({ payload }, { emit }) => {
    expectTypeOf(payload).toEqualTypeOf<{ by: string }>()
    // @ts-expect-error another event's payload
    return emit('noted', { at: 1 })
  })
  const order: Order = { id: 'o', at: new Date(0), lines: [], total: () => 1 }
  // @ts-expect-error not the payload of this type
  await expect(bus.emit('placed', { id: 1n })).rejects.toThrow('BigInt')
  await expect(bus.emit('placed', order)).rejects.toThrow('a function at $.total')
})

/** A schema whose input differs from its output, as zod's `z.coerce.date()` has it. */
const dated: StandardSchemaV1<{ at: string | Date }, { at: Date }> = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) => ({ value: { at: new Date((value as { at: string }).at) } }),
  },
}

test('emit takes what a schema takes, handlers get what it makes of it', async () => {
  const schemas = { dated }
  const bus = new OutboxEventBus<SchemaEvents<typeof schemas>>(new InMemoryOutbox({ logger: false }), {
    schemas,
  })
  let seen: unknown
  bus.on('dated', ({ payload }) => {
    expectTypeOf(payload).toEqualTypeOf<{ at: Date }>()
    seen = payload.at
  })
  await bus.start()
  await Promise.all([bus.emit('dated', { at: new Date(5) }), bus.waitFor('dated')])
  await bus.stop()
  expect(seen).toEqual(new Date(5))
  // @ts-expect-error no time at all
  await bus.emit('dated', { at: 1 })
})

test('activities: results of several shapes, none at all, logs as JSON gives them back, no arguments', () => {
  const either = activity('either', {
    execute({ big }: { big: boolean }) {
      if (big) return { log: { kind: 'big' as const, at: new Date() } }
      return { log: { kind: 'small' as const } }
    },
    compensate(log) {
      expectTypeOf(log.kind).toEqualTypeOf<'big' | 'small'>()
      if (log.kind === 'big') expectTypeOf(log.at).toEqualTypeOf<string>()
    },
  })
  const sometimes = activity('sometimes', {
    async execute({ id }: { id: string }): Promise<{ log: { id: string } } | undefined> {
      return id === '' ? undefined : { log: { id } }
    },
    compensate(log) {
      expectTypeOf(log).toEqualTypeOf<{ id: string } | undefined>()
    },
  })
  const nothing = activity('nothing', { execute() {} })
  const optional = activity('optional', {
    execute(args?: { n: number }) {
      return { variables: { n: args?.n } }
    },
  })
  const slip = routingSlip('types')
    .add(either, { big: true })
    .add(sometimes, { id: 'x' })
    .add(nothing)
    .add(optional)
    .add(optional, { n: 1 })
  expect(slip.itinerary.steps).toHaveLength(5)
  // @ts-expect-error arguments are missing
  slip.add(either)
  // @ts-expect-error arguments of another activity
  itinerary().add(either, { id: 'x' })
  // @ts-expect-error execute would get text instead of the Date
  activity('dated', {
    execute({ at }: { at: Date }) {
      return { variables: { at } }
    },
  })
})

test('a handler of several types tells events apart, one of all knows nothing of them', () => {
  interface Events {
    placed: { id: string }
    paid: { cents: number }
  }
  const bus = new OutboxEventBus<Events>(new InMemoryOutbox({ logger: false }))
  bus.on(['placed', 'paid'], (event) => {
    expectTypeOf(event.type).toEqualTypeOf<'placed' | 'paid'>()
    if (event.type === 'paid') expectTypeOf(event.payload).toEqualTypeOf<{ cents: number }>()
    else expectTypeOf(event.payload).toEqualTypeOf<{ id: string }>()
  })
  bus.on('*', ({ type, payload }) => {
    expectTypeOf(type).toEqualTypeOf<string>()
    expectTypeOf(payload).toEqualTypeOf<unknown>()
  })
  // @ts-expect-error no event of that name
  bus.on('lost', () => {})
})

test('what implements a contract takes and leaves what that says', () => {
  const charge = activityContract<{ cents: number }, { id: string }>('charge')
  activity(charge, {
    execute: ({ cents }) => ({ log: { id: `${cents}` } }),
    compensate: ({ id }) => expectTypeOf(id).toEqualTypeOf<string>(),
  })
  // @ts-expect-error it leaves no log
  activity(charge, { execute: () => {} })
  // @ts-expect-error it takes something else
  activity(charge, { execute: (_: { euros: number }) => ({ log: { id: '' } }) })
  routingSlip('order').add(charge, { cents: 1 })
  // @ts-expect-error it takes a number
  routingSlip('order').add(charge, { cents: '1' })
  activity(activityContract<{ sku: string }>('reserve'), { execute: () => {} })
})
