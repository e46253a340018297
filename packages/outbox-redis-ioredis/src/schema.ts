import { StorageError, UnsupportedBackendError } from 'outbox-core'
import type { RedisClient, RedisTransaction } from './client.ts'

/** Every key of one outbox; the braces are the hash tag. */
export interface Keys {
  /** Prefix of all of them. */
  readonly prefix: string
  /** Sorted set of waiting events by when they are due. */
  readonly due: string
  /** Sorted set of leased events by when their lease runs out. */
  readonly leased: string
  /** Sorted set of completed events by when their retention ends. */
  readonly done: string
  /** Sorted set of dead letters by when they died. */
  readonly dead: string
  /** Channel for wake-ups. */
  readonly channel: string
}

export function keysOf(prefix: string): Keys {
  const tagged = `{${prefix}}:`
  return {
    prefix: tagged,
    due: `${tagged}due`,
    leased: `${tagged}leased`,
    done: `${tagged}done`,
    dead: `${tagged}dead`,
    channel: `${tagged}wake`,
  }
}

/** Where a payload's bytes are. */
export function payloadKey({ prefix }: Keys, id: string): string {
  return `${prefix}saga:${id}`
}

/**
 * Refuses a server that can't keep the promises.
 *
 * @throws UnsupportedBackendError
 */
export async function assertSupported<Tx extends RedisTransaction>(
  redis: RedisClient<Tx>,
  keys: Keys,
  allowEviction: boolean,
): Promise<void> {
  const version = field(await redis.info('server'), 'redis_version')
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major < 6 || (major === 6 && minor < 2)) {
    throw new UnsupportedBackendError(`Redis is ${version}, 6.2 or newer is needed`)
  }
  const policy = field(await redis.info('memory'), 'maxmemory_policy')
  if (policy !== 'noeviction' && !allowEviction) {
    throw new UnsupportedBackendError(
      `maxmemory-policy is ${policy}: Redis would drop events and payloads when its memory is full; ` +
        'run CONFIG SET maxmemory-policy noeviction, or pass allowEviction: true if losing them is fine',
    )
  }
  await assertKeyTypes(redis, keys)
}

/** Whether the server keeps an append-only file. */
export async function persists<Tx extends RedisTransaction>(redis: RedisClient<Tx>): Promise<boolean> {
  return field(await redis.info('persistence'), 'aof_enabled') === '1'
}

// A key of another type would make our commands fail in the middle of a MULTI, which Redis does not roll back.
async function assertKeyTypes<Tx extends RedisTransaction>(
  redis: RedisClient<Tx>,
  keys: Keys,
): Promise<void> {
  const sets = [keys.due, keys.leased, keys.done, keys.dead]
  const script =
    'local found = {} for i, key in ipairs(KEYS) do found[i] = redis.call("TYPE", key).ok end return found'
  const types = (await redis.eval(script, sets.length, ...sets)) as string[]
  const odd = types.findIndex((type) => type !== 'zset' && type !== 'none')
  if (odd === -1) return
  throw new StorageError(`key "${sets[odd]}" holds a ${types[odd]}; choose another prefix or remove it`, {
    transient: false,
  })
}

function field(info: string, name: string): string {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? ''
}
