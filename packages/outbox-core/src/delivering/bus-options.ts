import type { EventSchemas } from '../emitting/schema.ts'
import { ConfigurationError } from '../errors.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import type { Storage } from '../storage.ts'
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
   * Most events leased at once. A worker begins with as many as it has handlers (`concurrency`), takes more while its
   * batches are done quickly, and fewer while they are slow or large.
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
   * How often leases are renewed: less than half of `lease`, so that one renewal may fail.
   * @default a third of `lease`
   */
  readonly heartbeat?: Duration
  /**
   * A handler that takes longer has its signal aborted and its attempt failed.
   * @default '5m'
   */
  readonly handlerTimeout?: Duration
  /**
   * How long an event waits for a process that can handle it before it becomes a dead letter. One that no worker has a
   * handler for: from when it was due. One that a worker took and can't handle (a key it lacks, a newer format) is given
   * back again and again: from when it was stored. And at least ten minutes from when this process met it first.
   * @default '1d'
   */
  readonly deferFor?: Duration
  /**
   * What a dead letter with a key does to later events of that key: it holds them back until it is retried or
   * discarded, or they go on without it. `on` can say otherwise for one handler.
   * @default 'hold'
   */
  readonly onDead?: 'hold' | 'skip'
  /**
   * Refuses an `emit`, and an `engine.emit`, outside a transaction: for all event types, or for these (the slips of an
   * engine have the type `saga.step`).
   * @default false
   */
  readonly requireTransaction?: boolean | readonly string[]
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
  readonly deferForMs: number
  readonly onDead: 'hold' | 'skip'
  /** How long a call of the worker into its database may hold up the next one. */
  readonly softDeadlineMs: number
  /** How long such a call is waited for before it is repeated. */
  readonly hardDeadlineMs: number
  /** How long a heartbeat waits for its answer. */
  readonly heartbeatDeadlineMs: number
  /** How soon the first heartbeat that failed is made up for. */
  readonly heartbeatRepeatMs: number
  /** How long an outcome that can't be written is kept, its lease with it. */
  readonly asideMs: number
  readonly retentionMs: number
  readonly minPollMs: number
  readonly maxPollMs: number
  readonly purgeIntervalMs: number
}

/**
 * @param writesTogether whether the storage takes many outcomes in one request
 * @throws ConfigurationError naming the option and its value
 */
export function dispatcherSettings(
  options: Omit<BusOptions, 'schemas'>,
  { writesTogether }: Pick<Storage<unknown>, 'writesTogether'>,
): DispatcherSettings {
  const leaseMs = durationMs('lease', options.lease ?? '30s', 10)
  const heartbeatMs = durationMs('heartbeat', options.heartbeat ?? Math.ceil(leaseMs / 3))
  if (heartbeatMs >= leaseMs / 2) {
    throw new ConfigurationError(
      'heartbeat',
      options.heartbeat ?? heartbeatMs,
      `it must be shorter than half the lease, ${leaseMs} ms`,
    )
  }
  const minPollMs = durationMs('poll.min', options.poll?.min ?? 10)
  return {
    concurrency: wholeNumber('concurrency', options.concurrency ?? 20, 1, 10_000),
    batchSize: wholeNumber('batchSize', options.batchSize ?? 400, 1, 1_000),
    leaseMs,
    heartbeatMs,
    asideMs: leaseMs * ASIDE_LEASES,
    ...(writesTogether ? deadlines(leaseMs, heartbeatMs) : patientDeadlines(leaseMs, heartbeatMs)),
    deferForMs: durationMs('deferFor', options.deferFor ?? '1d'),
    onDead: deadPolicy(options.onDead ?? 'hold'),
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

/** @throws ConfigurationError */
export function deadPolicy(onDead: 'hold' | 'skip'): 'hold' | 'skip' {
  if (onDead === 'hold' || onDead === 'skip') return onDead
  throw new ConfigurationError('onDead', onDead, "it is 'hold' or 'skip'")
}

type Deadlines = Pick<
  DispatcherSettings,
  'softDeadlineMs' | 'hardDeadlineMs' | 'heartbeatDeadlineMs' | 'heartbeatRepeatMs'
>

// Below this a database that is merely busy would be asked again and again.
const LEAST_SOFT_MS = 100

const ASIDE_LEASES = 10

const HEARTBEAT_REPEATS = 8

/** How long a worker waits for its database: shares of the lease. */
function deadlines(leaseMs: number, heartbeatMs: number): Deadlines {
  return {
    softDeadlineMs: Math.ceil(Math.min(leaseMs / 4, Math.max(LEAST_SOFT_MS, leaseMs / 100))),
    hardDeadlineMs: Math.ceil(leaseMs / 3),
    heartbeatDeadlineMs: heartbeatMs / 2,
    heartbeatRepeatMs: Math.ceil(heartbeatMs / HEARTBEAT_REPEATS),
  }
}

/**
 * Where a call is a request for each of its outcomes, it takes as long as all of them do: asked again too soon, a
 * database that has not answered yet would only get more to do.
 */
function patientDeadlines(leaseMs: number, heartbeatMs: number): Deadlines {
  return {
    softDeadlineMs: Math.ceil(leaseMs / 3),
    hardDeadlineMs: leaseMs,
    heartbeatDeadlineMs: heartbeatMs,
    heartbeatRepeatMs: heartbeatMs,
  }
}
