import {
  type Attributes,
  type Context,
  context,
  type Histogram,
  metrics,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import { causeOf } from './delivering/judgement.ts'
import type { EventDraft } from './emitting/event.ts'
import type { Middleware } from './middleware.ts'
import { errorFields, toError } from './thrown.ts'

const NAME = 'outbox-core'

// As OpenTelemetry's semantic conventions advise for durations of messaging operations, in seconds.
const BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]

/**
 * Middleware that makes an event, and a saga with all its steps, part of the trace in which it was emitted: the trace
 * context travels in the event's headers, and every attempt is a span (`process order.placed`, kind consumer; the step of
 * a saga also says its activity) and a value of the histogram `messaging.process.duration`, in seconds. An event that is
 * emitted outside any span begins a trace of its own (`send order.placed`, kind producer), to which all attempts at it
 * belong. A span is an error when its attempt failed, timed out, or was an activity's last. Names follow OpenTelemetry's
 * semantic conventions for messaging. Payloads are never recorded.
 *
 * Does nothing until an OpenTelemetry SDK is registered. Needs `@opentelemetry/api`.
 */
export function telemetry(): Middleware {
  const tracer = trace.getTracer(NAME)
  // Unlike a tracer, a meter that is asked for before the SDK is registered never measures anything.
  let duration: Histogram | undefined
  return {
    emit(draft) {
      const carrier: Record<string, string> = {}
      propagation.inject(emittingContext(tracer, draft), carrier)
      draft.headers = { ...draft.headers, ...carrier }
    },
    handle(delivery, next) {
      const { id, type, attempt, headers, routingSlipId } = delivery
      const about: Attributes = {
        'messaging.system': 'outbox',
        'messaging.operation.name': 'process',
        'messaging.destination.name': type,
      }
      const attributes: Attributes = {
        ...about,
        'messaging.operation.type': 'process',
        'messaging.message.id': id,
        'messaging.message.delivery_attempt': attempt,
        ...(routingSlipId !== undefined && { 'messaging.message.conversation_id': routingSlipId }),
      }
      duration ??= metrics.getMeter(NAME).createHistogram('messaging.process.duration', {
        unit: 's',
        description: 'Duration of one attempt at an event.',
        advice: { explicitBucketBoundaries: BOUNDARIES },
      })
      // Not of whatever was active where the bus was started.
      const parent = propagation.extract(ROOT_CONTEXT, headers)
      const options = { kind: SpanKind.CONSUMER, attributes }
      return tracer.startActiveSpan(`process ${type}`, options, parent, async (span) => {
        const started = performance.now()
        let failed: Attributes = {}
        try {
          await next()
          if (delivery.failure) failed = told(span, delivery.failure)
        } catch (thrown) {
          failed = told(span, toError(thrown))
          throw thrown
        } finally {
          const { activity } = delivery
          if (activity !== undefined) {
            span.updateName(`process ${type} ${activity}`)
            span.setAttribute('outbox.activity', activity)
          }
          span.end()
          duration?.record((performance.now() - started) / 1000, { ...about, ...failed })
        }
      })
    },
  }
}

/** The span around the caller, the one that the headers name already, or a new one that ends at once. */
function emittingContext(tracer: Tracer, { id, type, headers }: EventDraft): Context {
  const active = context.active()
  if (trace.getSpanContext(active) || trace.getSpanContext(propagation.extract(ROOT_CONTEXT, headers)))
    return active
  const span = tracer.startSpan(`send ${type}`, {
    kind: SpanKind.PRODUCER,
    attributes: {
      'messaging.system': 'outbox',
      'messaging.operation.name': 'send',
      'messaging.operation.type': 'send',
      'messaging.destination.name': type,
      'messaging.message.id': id,
    },
  })
  span.end()
  return trace.setSpan(active, span)
}

/** Marks a span as failed; what is measured says so too. */
function told(span: Span, error: Error): Attributes {
  const { name, code = name, message } = errorFields(causeOf(error))
  const failed = { 'error.type': code }
  span.setStatus({ code: SpanStatusCode.ERROR, message })
  span.setAttributes(failed)
  return failed
}
