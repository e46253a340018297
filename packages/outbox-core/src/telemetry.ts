import {
  type Attributes,
  context,
  type Histogram,
  metrics,
  propagation,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api'
import { toError } from './errors.ts'
import { errorFields } from './logger.ts'
import type { Middleware } from './middleware.ts'

const NAME = 'outbox-core'

/**
 * Middleware that makes an event, and a saga with all its steps, part of the trace in which it was emitted: the trace
 * context travels in the event's headers, and every attempt is a span (`process order.placed`, kind consumer) and a
 * value of the histogram `messaging.process.duration`, in seconds. Names follow OpenTelemetry's semantic conventions
 * for messaging. Payloads are never recorded.
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
      propagation.inject(context.active(), carrier)
      draft.headers = { ...draft.headers, ...carrier }
    },
    handle({ id, type, attempt, headers, routingSlipId }, next) {
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
      duration ??= metrics.getMeter(NAME).createHistogram('messaging.process.duration', { unit: 's' })
      const parent = propagation.extract(context.active(), headers)
      const options = { kind: SpanKind.CONSUMER, attributes }
      return tracer.startActiveSpan(`process ${type}`, options, parent, async (span) => {
        const started = performance.now()
        const failed: Attributes = {}
        try {
          await next()
        } catch (thrown) {
          const { name, code = name, message } = errorFields(toError(thrown))
          failed['error.type'] = code
          span.setStatus({ code: SpanStatusCode.ERROR, message })
          throw thrown
        } finally {
          span.setAttributes(failed)
          span.end()
          duration?.record((performance.now() - started) / 1000, { ...about, ...failed })
        }
      })
    },
  }
}
