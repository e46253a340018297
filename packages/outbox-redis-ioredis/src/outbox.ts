import { ConfigurationError, identifier, Outbox, type OutboxOptions } from 'outbox-core'
import type { RedisClient, RedisListener, RedisTransaction } from './client.ts'
import { RedisStorage } from './storage.ts'

export interface RedisIoredisOutboxOptions extends OutboxOptions {
  /**
   * Prefix of every key, as the hash tag `{prefix}`, so that a cluster keeps them in one slot: a letter or _, then
   * letters, digits and _, at most 48 characters.
   * @default 'outbox'
   */
  readonly prefix?: string
  /**
   * Runs on a server that evicts keys when its memory is full, and so loses events.
   * @default false
   */
  readonly allowEviction?: boolean
  /**
   * A connection of your own that may subscribe (`redis.duplicate()`), so that events of other processes are handled at
   * once instead of at the next poll. It stays yours to close.
   */
  readonly listener?: RedisListener
  /**
   * Tells the listeners of other processes after a commit, at most once a millisecond: one PUBLISH.
   * @default whether there is a `listener`
   */
  readonly notify?: boolean
}

/**
 * A transactional outbox in Redis (6.2 or newer), through an ioredis client or cluster.
 *
 * `transaction` hands out ioredis's own `multi()`: your commands, events and payloads are sent as one MULTI/EXEC when the
 * callback resolves. Reads through it see nothing before that; read with the client. Redis does not roll back: a command of yours
 * that fails at run time leaves the others applied, and `transaction` throws. So it does when another process takes an event's
 * id between its emit and EXEC. After `enlist` you call `exec()` yourself: look at its replies.
 */
export class RedisIoredisOutbox<Tx extends RedisTransaction = RedisTransaction> extends Outbox<Tx> {
  readonly #storage: RedisStorage<Tx>

  /**
   * @param redis your own client; the outbox opens no connection and closes none
   * @throws ConfigurationError naming the option and its value
   */
  constructor(redis: RedisClient<Tx>, options: RedisIoredisOutboxOptions = {}) {
    assertAnswers(redis)
    assertMaster(redis)
    assertOwnListener(redis, options.listener)
    const prefix = identifier('prefix', options.prefix ?? 'outbox')
    const storage = new RedisStorage(redis, {
      prefix,
      allowEviction: options.allowEviction ?? false,
      listener: options.listener,
      notify: options.notify ?? options.listener !== undefined,
    })
    super(storage, options)
    this.#storage = storage
  }

  override async initialize(): Promise<void> {
    await super.initialize()
    for (const warning of this.#storage.takeWarnings()) this.logger.warn({}, warning)
  }
}

// Then ioredis forgets what a lost connection left unanswered, and nobody hears of it any more.
function assertAnswers(redis: object): void {
  const { options } = redis as ClientOptions
  if (options?.autoResendUnfulfilledCommands !== false || options.commandTimeout !== undefined) return
  throw new ConfigurationError(
    'autoResendUnfulfilledCommands',
    false,
    'calls would hang for ever after a lost connection; leave it true, or set commandTimeout as well',
  )
}

// Of what was written a moment ago, a replica may not know yet.
function assertMaster(redis: object): void {
  const { isCluster, options } = redis as ClientOptions
  if (isCluster) return
  const advice =
    'the outbox needs the master: what it reads from a replica may be old, and it can’t write there'
  if (options?.role === 'slave') throw new ConfigurationError('role', options.role, advice)
  if (options?.readOnly) throw new ConfigurationError('readOnly', options.readOnly, advice)
}

function assertOwnListener(redis: object, listener: object | undefined): void {
  if (listener !== redis) return
  throw new ConfigurationError(
    'listener',
    'the outbox’s own client',
    'a connection that subscribes can do nothing else; pass redis.duplicate()',
  )
}

/** ioredis's own options, of a single client. */
interface ClientOptions {
  readonly isCluster?: boolean
  readonly options?: {
    readonly role?: string
    readonly readOnly?: boolean
    readonly autoResendUnfulfilledCommands?: boolean
    readonly commandTimeout?: number | undefined
  }
}
