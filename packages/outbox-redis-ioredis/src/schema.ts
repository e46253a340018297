import { assertKnownSchema, StorageError, toError, UnsupportedBackendError } from 'outbox-core'
import type { RedisCalls } from './calls.ts'
import { isForbidden, redisError } from './errors.ts'
import { ADOPT } from './scripts/adopt.ts'
import { CHECK } from './scripts/check.ts'

/** Where an outbox is. The braces are the hash tag that keeps all its keys in one slot of a cluster. */
export interface Keys {
  /** What every key begins with. */
  readonly root: string
  /** Channel for wake-ups. */
  readonly channel: string
}

export function keysOf(prefix: string): Keys {
  const root = `{${prefix}}:`
  return { root, channel: `${root}wake` }
}

/** Where a payload's bytes are. */
export function payloadKey({ root }: Keys, id: string): string {
  return `${root}saga:${id}`
}

/** Raised by whatever makes processes of an older version misread what is stored. */
const VERSION = 2

// Of the outbox itself; commands of a user's own, and what ioredis says when it connects, come on top.
const COMMANDS =
  'eval evalsha multi exec discard ping get getex set del hset hget hmget hexists ' +
  'zadd zrem zrange zrangebyscore zcount zcard zscore type time publish subscribe unsubscribe info'

/** What to give to a Redis user, as ACL SETUSER takes it. */
export function rightsOf({ root, channel }: Keys): string {
  const commands = COMMANDS.split(' ').map((command) => `+${command}`)
  return [`~${root}*`, `&${channel}`, ...commands].join(' ')
}

/**
 * Refuses a server, or a user of it, that can't keep the promises.
 *
 * @returns what is to be warned about, and the version of the layout that is noted
 * @throws UnsupportedBackendError; NewerSchemaError; StorageError when a key of ours holds something else, and a passing one
 *   on a replica
 */
export async function checkServer(
  calls: RedisCalls,
  keys: Keys,
  { allowEviction, announces }: { readonly allowEviction: boolean; readonly announces: boolean },
): Promise<{ readonly warnings: readonly string[]; readonly version: number }> {
  const { root, channel } = keys
  const reply = await calls.run(CHECK, [announces ? channel : '']).catch((error: unknown) => {
    if (isForbidden(error)) throw lacksRights(toError(error).message, keys, error)
    throw error
  })
  const [info = '', silence = '', version = '', failure = '', lacking = '', key, kind] = reply as string[]
  if (lacking !== '') throw lacksRights(`it may not: ${lacking.split(' ').map(spoken).join(', ')}`, keys)
  if (key !== undefined) {
    // It would make our commands fail in the middle of a MULTI, which Redis does not roll back.
    throw new StorageError(`key "${key}" holds a ${kind}; choose another prefix or remove it`, {
      transient: false,
    })
  }
  if (version !== '') assertKnownSchema(`prefix "${root}"`, Number(version), VERSION)
  if (failure !== '') throw redisError(Object.assign(new Error(failure), { name: 'ReplyError' }))
  const warnings = serverWarnings(info, allowEviction)
  if (silence !== '') {
    warnings.unshift(
      `this Redis user may not publish on ${channel} (${silence}): other processes find events only at their next poll; allow it with ACL SETUSER … &${channel} +publish`,
    )
  }
  return { warnings, version: Number(version) }
}

/** Takes over what is in an older layout, some at a time, and notes the version of this one. */
export async function adoptOlder(calls: RedisCalls, noted: number): Promise<void> {
  let isMore = noted !== VERSION
  while (isMore) isMore = Number(await calls.run(ADOPT, [String(VERSION)])) === 1
}

function spoken(right: string): string {
  const [command = '', ...key] = right.split(':')
  return key.length === 0 ? command.toUpperCase() : `${command.toUpperCase()} on ${key.join(':')}`
}

function lacksRights(what: string, keys: Keys, cause?: unknown): UnsupportedBackendError {
  return new UnsupportedBackendError(
    `this Redis user lacks rights that the outbox needs (${what}); allow them with ACL SETUSER … ${rightsOf(keys)}`,
    { cause },
  )
}

function serverWarnings(info: string, allowEviction: boolean): string[] {
  if (info === '') {
    return [
      'this Redis user may not read INFO, so nobody has checked version, maxmemory-policy and AOF; allow it with ACL SETUSER … +info',
    ]
  }
  const warnings: string[] = []
  const version = field(info, 'redis_version')
  if (version !== '') assertVersion(version)
  const policy = field(info, 'maxmemory_policy')
  if (policy === '') {
    warnings.push('this Redis does not say its maxmemory-policy; make sure that it is noeviction')
  } else if (!allowEviction) assertNoEviction(policy)
  if (field(info, 'aof_enabled') !== '1') {
    warnings.push('this Redis keeps no append-only file: a restart loses events; set appendonly yes')
  }
  return warnings
}

function assertVersion(version: string): void {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major > 6 || (major === 6 && minor >= 2)) return
  throw new UnsupportedBackendError(`Redis is ${version}, 6.2 or newer is needed`)
}

function assertNoEviction(policy: string): void {
  if (policy === 'noeviction') return
  throw new UnsupportedBackendError(
    `maxmemory-policy is ${policy}: Redis may drop events and payloads when its memory is full; ` +
      'run CONFIG SET maxmemory-policy noeviction, or pass allowEviction: true if losing them is fine',
  )
}

function field(info: string, name: string): string {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? ''
}
