import { createHash } from 'node:crypto'
import { EventTooLargeError } from '../errors.ts'
import { newId } from '../ids.ts'
import type { Duration } from '../options.ts'
import type { Headers, NewEvent, Outcome, PayloadRecord, When } from '../storage.ts'
import {
  checkedHeaders,
  checkedId,
  checkedKey,
  checkedType,
  dueTime,
  RESERVED_HEADER_PREFIX,
} from './checks.ts'
import { serialize } from './serialize.ts'

/** What can be said about an event when it is emitted. */
export interface EventOptions {
  /**
   * Makes the emit repeatable: while an event with this id is in the outbox, the same event emitted again is
   * dropped without a word, and another one under this id is a DuplicateEventError. 1 to 255 visible ASCII
   * characters. How long a completed event stays is the bus's `retention`.
   * @default a new UUID v7
   */
  readonly id?: string | undefined
  /** String pairs kept beside the payload, 8 KiB in all. Names beginning with `outbox-` are reserved. */
  readonly headers?: Headers | undefined
  /** Not handled before this moment on the database's clock. Excludes `delay`. */
  readonly deliverAt?: Date | undefined
  /** Not handled until this long after the database stored it. Excludes `deliverAt`. */
  readonly delay?: Duration | undefined
  /**
   * Events of one key are handled one at a time, in the order in which their transactions committed, and within one in
   * the order of the calls: by all processes of this outbox together, across types, retries and crashes. Others do not
   * wait for them. 1 to 255 bytes of text without control characters. Excludes `delay` and `deliverAt`.
   * @default no order
   */
  readonly key?: string | undefined
}

/** What the library itself says about an event beside that. */
export interface OwnOptions {
  /** With reserved names. @default none */
  readonly headers?: Headers
  /** What a worker has to be able to do to take it. @default the event's type */
  readonly address?: string
  /** Takes the place in its key of the event that is completed with it. @default false */
  readonly inPlace?: boolean
  /** One that can't be taken by another event. @default a new one */
  readonly id?: string
}

/** An event as a handler sees it. */
export interface OutboxEvent<Type extends string = string, Payload = unknown> {
  readonly id: string
  readonly type: Type
  readonly payload: Payload
  readonly headers: Headers
  /** When the database stored it; by its worker's clock, when that goes on with what its own handler emitted. */
  readonly createdAt: Date
  /** 1 for the first attempt. Released leases don't count. */
  readonly attempt: number
}

/** The header that holds a claim id: where the event's payload is. */
export const CLAIM_HEADER = 'outbox-claim'

/** The header that says when the claim's payload runs out, in milliseconds since the epoch. */
export const CLAIM_EXPIRES_HEADER = 'outbox-claim-expires'

/** The header that holds the id of the routing slip an event belongs to. */
export const SLIP_HEADER = 'outbox-slip'

/** The header that says until when a slip's start is remembered, in milliseconds since the epoch. */
export const START_KEPT_HEADER = 'outbox-start-kept'

/** The header that says which lifecycle events the process that started a slip has handlers for. */
export const TOLD_HEADER = 'outbox-told'

/** The headers that are not the library's own. */
export function userHeaders(headers: Headers): Headers {
  let users: Record<string, string> | undefined
  for (const name in headers) {
    if (name.startsWith(RESERVED_HEADER_PREFIX)) continue
    users ??= {}
    users[name] = headers[name] as string
  }
  return users ?? NO_HEADERS
}

const NO_HEADERS: Headers = Object.freeze({})

/** An event on its way into the outbox, as middleware sees it. */
export interface EventDraft {
  readonly type: string
  readonly id: string
  /** A copy of what `emit` was given, as JSON gives it back. It may be changed, and another one may be set. */
  payload: unknown
  /** May be replaced; names that begin with `outbox-` are the library's own. */
  headers: Headers
}

/** An event on its way into the outbox. */
export class Draft implements EventDraft {
  readonly type: string
  readonly id: string
  readonly key: string | null
  readonly #address: string
  readonly #inPlace: boolean
  readonly #due: When
  readonly #callerChoseId: boolean
  readonly #puts: PayloadRecord[] = []
  /** What is stored: taken at the call, so that whatever becomes of the object later, the event stays as it was. */
  #json: string
  /** What middleware sees of it, and may change. */
  #view: { payload: unknown } | undefined
  #body: string | undefined
  headers: Headers

  constructor(type: string, payload: unknown, options: EventOptions = {}, own: OwnOptions = {}) {
    this.type = checkedType(type)
    this.#address = own.address ?? type
    this.#inPlace = own.inPlace ?? false
    this.key = options.key === undefined ? null : checkedKey(options.key)
    this.id = options.id === undefined ? (own.id ?? newId()) : checkedId(options.id)
    this.#callerChoseId = options.id !== undefined
    this.#due = dueTime(options)
    this.headers = { ...(options.headers && checkedHeaders(options.headers)), ...own.headers }
    this.#json = serialize(payload)
  }

  get payload(): unknown {
    this.#view ??= { payload: JSON.parse(this.#json) }
    return this.#view.payload
  }

  set payload(payload: unknown) {
    this.#view = { payload }
  }

  /** Takes over what middleware has made of the payload, if it looked at it. @throws NotSerializableError */
  settleView(): { readonly payload: unknown } | undefined {
    const view = this.#view
    if (view) this.#json = serialize(view.payload)
    this.#view = undefined
    return view
  }

  /** How many milliseconds from now the event is due, by this process's clock. */
  dueInMs(now: number): number {
    return dueInMs(this.#due, now)
  }

  /** The payload's JSON. */
  get json(): string {
    return this.#json
  }

  /** The routing slip this event belongs to, for log lines. */
  get routingSlipId(): string | undefined {
    return this.headers[SLIP_HEADER]
  }

  /**
   * Leaves only a claim in the event. Its payload's bytes are `record`, put in the same write; without one, the
   * bytes have been stored elsewhere already.
   */
  claim(claimId: string, expiresAt: number, record?: PayloadRecord): void {
    this.#body = 'null'
    this.headers = { ...this.headers, [CLAIM_HEADER]: claimId, [CLAIM_EXPIRES_HEADER]: String(expiresAt) }
    if (record) this.#puts.push(record)
  }

  /** The write that stores this event together with its payload. @throws EventTooLargeError */
  outcome(limitBytes: number): Outcome & { readonly append: readonly [NewEvent] } {
    const body = this.#body ?? this.#json
    const bytes = Buffer.byteLength(body)
    if (bytes > limitBytes) throw new EventTooLargeError(this.type, limitBytes, bytes)
    const fingerprint = this.#callerChoseId ? digest(this.type, canonical(this.#json)) : null
    const event: NewEvent = {
      id: this.id,
      type: this.type,
      address: this.#address,
      key: this.key,
      ...(this.#inPlace && { inPlace: true }),
      body,
      headers: this.headers,
      due: this.#due,
      fingerprint,
    }
    return { append: [event], put: this.#puts, remove: [], routingSlipId: this.routingSlipId }
  }
}

/** How many milliseconds after `now`, on this process's clock, a moment is. */
export function dueInMs(due: When, now: number): number {
  return 'at' in due ? due.at - now : due.inMs
}

/** Whether an event is due as soon as it is stored. */
export function isDueAtOnce({ due }: NewEvent): boolean {
  return 'inMs' in due && due.inMs === 0
}

/** What an earlier version took as the fingerprint of the same event: the keys in the order in which they came. */
export function fingerprintByKeyOrder({ type, json }: Draft): string {
  return digest(type, json)
}

/** The same JSON with the keys of every object in one order: an event is the same whatever order they came in. */
function canonical(json: string): string {
  return JSON.stringify(JSON.parse(json), (_, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  )
}

function digest(type: string, json: string): string {
  return createHash('sha256').update(type).update('\n').update(json).digest('base64url')
}
