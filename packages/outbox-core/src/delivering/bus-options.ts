import type { EventSchemas } from '../emitting/schema.ts'
import { ConfigurationError } from '../errors.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import type { RetryOptions } from './retry.ts'

/** Options of an OutboxEventBus. Every one has a default that suits most services. */
export interface BusOptions<Events extends object = Record<string, unknown>> {
  /** Checked on emit and again before the handler, which gets the schema's output. @default none */
  readonly schemas?: EventSchemas<Events>
  /** When a failed attempt is made again; `on` can say otherwise for one event type. */
  readonly retry?: RetryOptions
  /**
   * Handlers that run at the same time in this process.
   * @default 20
   */
  readonly concurrency?: number
  /**
   * Most events leased at once. A worker begins with 100, takes more while its batches are done quickly, and fewer
   * while they are slow or large.
   * @default 400
   */
  readonly batchSize?: number
  /**
   * How long a leased event stays invisible to other workers; renewed while it is being handled. After a crash its
   * events come back when this has passed.
   * @default '30s'
   */
  readonly lease?: Duration
  /**
   * How often leases are renewed.
   * @default a third of `lease`
   */
  readonly heartbeat?: Duration
  /**
   * A handler that takes longer has its signal aborted and its attempt failed.
   * @default '5m'
   */
  readonly handlerTimeout?: Duration
  /**
   * What becomes of completed events: deleted, or kept for a time (within which their ids can't be used again).
   * @default 'delete'
   */
  readonly retention?: 'delete' | Duration
  /**
   * Shortest and longest pause of an idle poll; it doubles from one to the other while nothing is due.
   * @default { min: 10, max: '1s' }
   */
  readonly poll?: { readonly min?: Duration; readonly max?: Duration }
  /**
   * How often expired payloads and events are removed in the background.
   * @default '1m'
   */
  readonly purgeInterval?: Duration
}

/** A dispatcher's options, checked and in milliseconds. */
export interface DispatcherSettings {
  readonly concurrency: number
  readonly batchSize: number
  readonly leaseMs: number
  readonly heartbeatMs: number
  readonly handlerTimeoutMs: number
  readonly retentionMs: number
  readonly minPollMs: number
  readonly maxPollMs: number
  readonly purgeIntervalMs: number
}

/** @throws ConfigurationError naming the option and its value */
export function dispatcherSettings(options: Omit<BusOptions, 'schemas'>): DispatcherSettings {
  const leaseMs = durationMs('lease', options.lease ?? '30s', 10)
  const heartbeatMs = durationMs('heartbeat', options.heartbeat ?? Math.ceil(leaseMs / 3))
  if (heartbeatMs >= leaseMs) {
    throw new ConfigurationError(
      'lease',
      options.lease ?? '30s',
      `it must be longer than the heartbeat, ${heartbeatMs} ms`,
    )
  }
  const minPollMs = durationMs('poll.min', options.poll?.min ?? 10)
  return {
    concurrency: wholeNumber('concurrency', options.concurrency ?? 20, 1, 10_000),
    batchSize: wholeNumber('batchSize', options.batchSize ?? 400, 1, 1_000),
    leaseMs,
    heartbeatMs,
    handlerTimeoutMs: durationMs('handlerTimeout', options.handlerTimeout ?? '5m'),
    retentionMs:
      options.retention === undefined || options.retention === 'delete'
        ? 0
        : durationMs('retention', options.retention),
    minPollMs,
    maxPollMs: durationMs('poll.max', options.poll?.max ?? Math.max(1_000, minPollMs), minPollMs),
    purgeIntervalMs: durationMs('purgeInterval', options.purgeInterval ?? '1m'),
  }
}
