import { context, metrics, propagation, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  activity,
  InMemoryOutbox,
  OutboxEventBus,
  PermanentError,
  RetryLaterError,
  routingSlip,
  SagaEngine,
  type SagaEvents,
} from '../src/index.ts'
import { telemetry } from '../src/telemetry.ts'
import { until } from '../src/testing/index.ts'

const spans = new InMemorySpanExporter()
const measured = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const meters = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter: measured })] })

beforeEach(() => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }))
  metrics.setGlobalMeterProvider(meters)
})

afterEach(() => {
  for (const api of [context, propagation, trace, metrics]) api.disable()
  spans.reset()
})

test('a saga is one trace, from the span that emitted it to its last step', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus<SagaEvents>(outbox).use(telemetry())
  const step = activity('step', { execute: () => {} })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
  bus.on('saga.completed', () => {})
  const slip = routingSlip('test', 'slip-1').add(step, {}).add(step, {})
  const traceId = await trace.getTracer('test').startActiveSpan('request', async (span) => {
    await engine.emit(slip)
    span.end()
    return span.spanContext().traceId
  })
  await bus.start()
  await bus.waitFor('saga.completed')
  await bus.stop()
  const finished = spans.getFinishedSpans()
  expect(finished.map(({ name }) => name)).toEqual([
    'request',
    'process saga.step step',
    'process saga.step step',
    'process saga.completed',
  ])
  expect(new Set(finished.map((span) => span.spanContext().traceId))).toEqual(new Set([traceId]))
  expect(chained(finished)).toBe(true)
  expect(finished[1]?.attributes).toMatchObject({
    'messaging.destination.name': 'saga.step',
    'messaging.message.conversation_id': 'slip-1',
    'outbox.activity': 'step',
    'messaging.message.delivery_attempt': 1,
  })
})

test('a failed attempt is told by its span and its measured duration, without the payload', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus(outbox).use(telemetry())
  bus.on('work', () => {
    throw new PermanentError('no such thing')
  })
  await bus.emit('work', { secret: 'TOP-SECRET' })
  await bus.start()
  await until(async () => (await outbox.stats()).dead === 1)
  await bus.stop()
  const span = spans.getFinishedSpans().find(({ name }) => name === 'process work')
  expect(span).toMatchObject({
    status: { code: 2, message: 'no such thing' },
    attributes: { 'error.type': 'OUTBOX_PERMANENT' },
  })
  expect(JSON.stringify([span?.attributes, span?.events])).not.toContain('TOP-SECRET')
  await meters.forceFlush()
  const [metric] = measured
    .getMetrics()
    .flatMap(({ scopeMetrics }) => scopeMetrics.flatMap(({ metrics }) => metrics))
  expect(metric?.descriptor).toMatchObject({ name: 'messaging.process.duration', unit: 's' })
  expect(metric?.dataPoints).toContainEqual(
    expect.objectContaining({
      attributes: expect.objectContaining({ 'error.type': 'OUTBOX_PERMANENT' }),
      value: expect.objectContaining({ count: 1 }),
    }),
  )
})

test('all attempts at an event that was emitted outside any span are one trace, and none of the span around start', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus(outbox, { retry: { maxAttempts: 3, delay: 1 } }).use(telemetry())
  bus.on('work', () => {
    throw new RetryLaterError('busy', 1, { cause: Object.assign(new Error('locked'), { code: 'EBUSY' }) })
  })
  const started = await trace.getTracer('test').startActiveSpan('deploy', async (span) => {
    await bus.start()
    span.end()
    return span.spanContext().traceId
  })
  await bus.emit('work', {})
  await until(async () => (await outbox.stats()).dead === 1)
  await bus.stop()
  const finished = spans.getFinishedSpans().filter(({ name }) => name !== 'deploy')
  expect(finished.map(({ name }) => name)).toEqual([
    'send work',
    'process work',
    'process work',
    'process work',
  ])
  const traces = new Set(finished.map((span) => span.spanContext().traceId))
  expect(traces.size).toBe(1)
  expect(traces).not.toContain(started)
  expect(finished.slice(1).map(({ attributes }) => attributes['error.type'])).toEqual(Array(3).fill('EBUSY'))
})

test('a handler that hangs and an activity that fails for the last time are told by their spans', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus<SagaEvents & { hangs: number }>(outbox, { retry: { maxAttempts: 1 } })
  bus.use(telemetry())
  bus.on('hangs', () => new Promise(() => {}), { timeout: 20 })
  const doomed = activity('doomed', {
    execute: () => Promise.reject(new RangeError('too much')),
    retry: { maxAttempts: 1 },
  })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [doomed] })
  bus.on('saga.compensated', () => {})
  await bus.start()
  await bus.emit('hangs', 1)
  await Promise.all([engine.emit(routingSlip('test').add(doomed, {})), bus.waitFor('saga.compensated')])
  await until(async () => (await outbox.stats()).dead === 1)
  await bus.stop()
  const byName = new Map(spans.getFinishedSpans().map((span) => [span.name, span]))
  expect(byName.get('process hangs')).toMatchObject({
    status: { code: 2 },
    attributes: { 'error.type': 'OUTBOX_TIMEOUT' },
  })
  expect(byName.get('process saga.step doomed')).toMatchObject({
    status: { code: 2, message: 'too much' },
    attributes: { 'error.type': 'RangeError' },
  })
})

test('durations have the boundaries that OpenTelemetry advises', async () => {
  await meters.forceFlush()
  const points = measured
    .getMetrics()
    .flatMap(({ scopeMetrics }) => scopeMetrics.flatMap(({ metrics }) => metrics))
    .flatMap(({ dataPoints }) => dataPoints as { value: { buckets: { boundaries: number[] } } }[])
  expect(points[0]?.value.buckets.boundaries).toEqual([
    ...[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10],
  ])
})

test('without an SDK it changes nothing', async () => {
  for (const api of [context, propagation, trace, metrics]) api.disable()
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus(outbox).use(telemetry())
  const headers: unknown[] = []
  bus.on('work', (event) => void headers.push(event.headers))
  await bus.start()
  await Promise.all([bus.emit('work', 1), bus.waitFor('work')])
  await bus.stop()
  expect(headers).toEqual([{}])
})

/** Whether each span is the child of the one before. */
function chained(finished: readonly ReadableSpan[]): boolean {
  return finished.every(
    ({ parentSpanContext }, index) => parentSpanContext?.spanId === finished[index - 1]?.spanContext().spanId,
  )
}
