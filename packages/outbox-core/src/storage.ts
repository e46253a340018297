/**
 * The seam: everything core asks of a database. Core decides, a storage only stores; see
 * docs/writing-an-adapter.md for how to write one and how to prove it.
 */

/** A moment: on the wall clock (milliseconds since the epoch), or counted from the database's own now. */
export type When = { readonly at: number } | { readonly inMs: number }

/** String pairs that travel with an event beside its body. */
export type Headers = Readonly<Record<string, string>>

/** An event as core hands it over to be stored. */
export interface NewEvent {
  readonly id: string
  readonly type: string
  /**
   * What a worker has to be able to do to take it: its type, or its type, `#` and what of that type (an activity, a
   * named handler). At most 300 characters of those that types have, and `#`.
   */
  readonly address: string
  /**
   * Events of one key are taken one at a time, in the order in which their transactions committed, and within one in the
   * order in which they were written. 1 to 255 bytes of UTF-8.
   */
  readonly key: string | null
  /**
   * Takes the place in its key of the event that its outcome settles, ahead of all that waits behind that; several do so
   * in their order. Their key is that event's.
   * @default false
   */
  readonly inPlace?: boolean
  /** JSON text. */
  readonly body: string
  readonly headers: Headers
  readonly due: When
  /**
   * Stored as leased until it is due, with attempt 1: the worker that settles another event in the same outcome, and
   * only such a one, goes on with this one at once.
   * @default false
   */
  readonly leased?: boolean
  /**
   * Set when the caller chose the id, so that the event may be in the outbox already: a digest of type and
   * payload that tells a repetition from another event. Such an event is the only one in its outcome.
   */
  readonly fingerprint: string | null
}

/** Bytes for the saga store. Putting an id again replaces its bytes and its expiry. */
export interface PayloadRecord {
  readonly id: string
  readonly data: Uint8Array
  readonly expires: When
}

/** One worker's hold on an event. The attempt number fences it: a stale worker names an older one. */
export interface Lease {
  readonly id: string
  /** Raised by every lease, never lowered, not even by a revival. */
  readonly attempt: number
}

/** An event as it lies in the database. */
export interface StoredEvent extends Lease {
  readonly type: string
  readonly address: string
  /** Null without one, and once the event has given up its place in it: completed, or a dead letter that was skipped. */
  readonly key: string | null
  readonly body: string
  readonly headers: Headers
  /** Milliseconds since the epoch, by the database's clock. */
  readonly createdAt: number
  /** How many of the attempts don't count against the retry policy: leases given back, revivals. */
  readonly uncounted: number
}

/** An event as it comes out of a lease. */
export interface LeasedEvent extends StoredEvent {
  /** When it was leased, by the clock of `createdAt`: core judges deadlines by it, whatever the process's own says. */
  readonly leasedAt: number
  /**
   * What waits right behind it in its key, in order. Its lease holds them too: whoever has it may handle them, one after
   * the other, and complete them together with it.
   */
  readonly behind?: readonly StoredEvent[]
}

/**
 * What becomes of an event. The first three need the event to be leased with exactly this attempt number,
 * the last two need it to be a dead letter with exactly this one; otherwise the outcome is lost.
 */
export type Settlement = Lease & {
  /** The event's, as it was leased or listed. @default null */
  readonly key?: string | null
} & (
    | {
        readonly kind: 'complete' /** 0 deletes the event, more keeps it for that long. */
        readonly keepMs: number
        /** Ids of those right behind it in its key, in order, that are completed with it. Never with events in its place. */
        readonly also?: readonly string[]
        /** The one right behind all of them is not only let go on, but leased for so long, its attempt raised. */
        readonly take?: { readonly id: string; readonly leaseMs: number }
      }
    | {
        readonly kind: 'retry'
        readonly delayMs: number
        readonly error: string | null
        /** Whether the attempt counts; when not, `uncounted` is raised by one. */
        readonly counted: boolean
      }
    | {
        readonly kind: 'bury'
        readonly error: string
        /** Whether its key goes on without it: it gives up its place, and its key. @default false */
        readonly skip?: boolean
      }
    | { readonly kind: 'discard' }
    | { readonly kind: 'revive' /** Due at once; `uncounted` becomes `attempt`. */ }
  )

/** A settlement of one kind. */
export type SettlementOf<Kind extends Settlement['kind']> = Extract<Settlement, { readonly kind: Kind }>

/**
 * The unit of writing: applied entirely or not at all. An emit only appends, a put only puts, a saga step
 * settles its event, appends the next one, puts its payload and removes the old one.
 */
export interface Outcome {
  readonly settle?: Settlement
  readonly append: readonly NewEvent[]
  readonly put: readonly PayloadRecord[]
  readonly remove: readonly string[]
  /** For core's log lines; not stored. */
  readonly routingSlipId?: string | undefined
}

/**
 * What became of an outcome. `lost`: its event is no longer held by that lease. `duplicate`: its fingerprinted
 * event is in the outbox already. An outcome that is both is `lost`: without the lease nothing of it counts, and a
 * settlement that is repeated is lost whatever it appended. Nothing of a lost or duplicate outcome was applied.
 */
export type OutcomeResult =
  | {
      readonly status: 'applied'
      /**
       * Set when the settled event has given up its place in its key, and an open transaction may hold an event of that
       * key which this write could not see: core asks `advance`.
       */
      readonly unsure?: boolean
    }
  | { readonly status: 'lost' }
  | {
      readonly status: 'duplicate' /** Of the event that was there first. */
      readonly fingerprint: string | null
    }

/** An event that ran out of attempts. */
export interface DeadEvent extends StoredEvent {
  readonly error: string
  readonly diedAt: number
  /** How many events of its key wait behind it. */
  readonly waitingBehind: number
}

/**
 * A place in the order of dead letters: when the last one seen died, in whatever unit the storage keeps, and what
 * orders those of the same moment. Core hands it to users as text and checks what comes back.
 */
export type DeadCursor = readonly [diedAt: number, tie: string]

export interface DeadQuery {
  readonly limit: number
  /** Only these ids. */
  readonly ids?: readonly string[]
  /** Only this event type. */
  readonly type?: string
  /** The `next` of the page before. */
  readonly after?: DeadCursor
}

export interface DeadPage {
  readonly events: readonly DeadEvent[]
  /** Set when there may be more: pass it as `after`. */
  readonly next?: DeadCursor
}

export interface PurgeOptions {
  /** Bytes of payloads after which no further payload is deleted. @default unbounded */
  readonly bytes?: number
  /** Whether it is one of many by workers. @default false */
  readonly background?: boolean
}

/** How much was purged: finished events past their retention, and expired payloads. */
export interface Purged {
  readonly events: number
  readonly payloads: number
  /** Whether it was the bytes that ended it, so that there are more. @default false */
  readonly more?: boolean
}

export interface LeaseRequest {
  /** Most events in all. */
  readonly limit: number
  /** How long they are invisible to others. */
  readonly leaseMs: number
  /** What the worker can do, each address once, and at most how many of each. At least one. */
  readonly addresses: readonly { readonly address: string; readonly limit: number }[]
  /**
   * Most events to tell of behind each leased one: those that wait next in its key, as far as they have one of these
   * addresses and would be due. A storage may tell of fewer. @default 0
   */
  readonly behind?: number
}

/** An address that open events have. */
export interface Waiting {
  readonly address: string
  /** Milliseconds since the soonest of them became due, or the lease of one ran out; negative when none has yet. */
  readonly oldestDueMs: number
}

/** What `advance` found. */
export interface Advanced {
  /** How many events may be taken now. */
  readonly events: number
  /** The keys of which that can't be said yet, since a transaction that writes in them is open. */
  readonly busy: readonly string[]
}

export interface StorageStats {
  /** Events visible now. */
  readonly due: number
  /** The same by address; those without any are left out. */
  readonly dueByAddress: Readonly<Record<string, number>>
  /** Events a worker holds now. */
  readonly leased: number
  readonly dead: number
  /** Events that wait for one before them in their key, whatever that waits for. */
  readonly blocked: number
  /** Milliseconds since the oldest due event became due; null when none is. */
  readonly oldestDueMs: number | null
}

/** Hard limits of the database itself; core's own limits are options and usually lower. */
export interface StorageLimits {
  readonly eventBytes: number
  readonly payloadBytes: number
  /** What a user can do about a larger payload. */
  readonly payloadAdvice?: string
}

/** The verbs of an adapter. `Tx` is the database's own transaction handle, `TxOptions` what its driver takes. */
export interface Storage<Tx, TxOptions = never> {
  readonly limits: StorageLimits

  /** The user's client: two outboxes on one client can be told to belong together. */
  readonly client: object

  /** Whether a `write` of several outcomes is one transaction, and cheaper than one for each. */
  readonly writesTogether: boolean

  /**
   * Whether no transaction keeps an id or a key from others until it ends: then a write under an id that users chose, or
   * into a key, may share a transaction with strangers, whom nothing can hold up.
   *
   * @default false
   */
  readonly idsAreFree?: boolean

  /** Creates what is missing. Idempotent, and safe when several processes start at once. */
  initialize(): Promise<void>

  /**
   * The database's own transaction. Commits when `work` resolves, rolls back when it throws, and throws what
   * `work` threw, unchanged.
   */
  transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R>

  /**
   * Runs `work` in a transaction that the user opened and will end. Hands out the handle that `write` takes.
   * Throws ForeignTransactionError or TransactionMissingError when `tx` is not such a transaction.
   */
  enlist<R>(tx: Tx, work: (tx: Tx) => Promise<R>): Promise<R>

  /**
   * Runs `work` so that what is written in `tx` meanwhile is taken back when it throws, and nothing else: a savepoint.
   * Throws what `work` threw, unchanged. Core runs one at a time in a transaction, or one inside the other. Left out
   * where the database has nothing like it; core then refuses to commit a transaction after a nested one has failed.
   */
  nested?<R>(tx: Tx, work: () => Promise<R>): Promise<R>

  /**
   * Throws when a transaction is open on the client that a write without `tx` would leave, or wait for until it
   * ends: code that looks as if it were inside it. Synchronous; only where the client can tell.
   */
  assertOutside?(): void

  /**
   * Notes where in `tx` the caller is, for a write that will come later; the returned function throws when that part
   * of the transaction has been rolled back meanwhile. Only for clients whose callbacks are synchronous.
   */
  mark?(tx: Tx): () => void

  /**
   * Applies outcomes: inside `tx` when given, else in a transaction that holds all of them, or one for each of them
   * (see `writesTogether`). One result for each outcome, in order. Outcomes of one call name different events and payloads. Writing the same once more
   * changes nothing: settlements are lost, generated ids that are there already count as applied. A storage whose
   * transactions are collected and sent at commit may find out only then, and throws there.
   *
   * An event with a key is blocked while one before it has a place in that key; settling that for good (completed,
   * discarded, skipped) lets the next one be taken, in the same transaction, and waits for nobody's open transaction.
   * Writing into a key may wait for one that has written in it: keys of one call are locked in one order. What is settled
   * goes before what is appended.
   *
   * A storage that can `announce` does so in the same round trip when asked to, which is never the case with `tx`.
   */
  write(
    outcomes: readonly Outcome[],
    tx?: Tx,
    options?: { readonly announce?: boolean },
  ): Promise<readonly OutcomeResult[]>

  /**
   * Takes due events of these addresses, oldest first, of each key only the first that has a place in it. What it costs
   * depends neither on events of other addresses nor on those that wait in their key.
   */
  lease(request: LeaseRequest): Promise<readonly LeasedEvent[]>

  /**
   * The addresses of events that wait or are leased, with how long. It costs what there are addresses, however many
   * events there are.
   */
  waiting(): Promise<readonly Waiting[]>

  /**
   * Lets the first event of each of these keys be taken, where nothing before it has a place any more; without keys, of
   * every key, in bounded steps: the net below. Left out where a transaction can't overlap a settlement.
   */
  advance?(keys?: readonly string[]): Promise<Advanced>

  /** Makes leases last `leaseMs` from now. Returns the ids that are no longer held. */
  extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]>

  /** Keeps a completed event for `keepMs` from now, if it is there still. Changes nothing else. */
  keep(id: string, keepMs: number): Promise<void>

  /** The bytes, or undefined when missing or expired. Inside `tx` it sees what `tx` has put and removed. */
  getPayload(id: string, tx?: Tx): Promise<Uint8Array | undefined>

  /**
   * Deletes up to `limit` finished events past their retention, and up to `limit` expired payloads; where a purge is one
   * transaction, no further payload once those before it have `bytes` together. Workers call it again and again, with
   * `background`: where the database deletes expired payloads by itself, they may be left to it then.
   */
  purge(limit: number, options?: PurgeOptions): Promise<Purged>

  /**
   * Dead letters, oldest first. Inside `tx` it never waits for a lock that `tx` holds; a storage whose transactions are
   * collected and sent at commit says what is committed.
   */
  listDead(query: DeadQuery, tx?: Tx): Promise<DeadPage>

  /** Inside `tx` as `listDead`. */
  stats(tx?: Tx): Promise<StorageStats>

  /**
   * Calls `wake` when another process may have committed an event. The returned function ends it. A subscription that
   * has ended by itself, and that the storage does not bring back by itself, is told to `lost` with why: core asks for
   * another one when the error says that it may pass.
   */
  listen?(wake: () => void, lost?: (error: Error) => void): Promise<() => Promise<void>>

  /**
   * Tells the listeners of other processes that an event may be due. Core calls it after the commit of a user's
   * transaction and not for every single one; a write without a transaction carries the announcement itself.
   */
  announce?(): Promise<void>

  /** Lets go of what the storage itself made (statements, watchers); never closes the user's client. */
  close(): Promise<void>
}
