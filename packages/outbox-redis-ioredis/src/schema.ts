import { StorageError, UnsupportedBackendError } from 'outbox-core'
import type { RedisCalls } from './calls.ts'
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

/**
 * Refuses a server that can't keep the promises.
 *
 * @returns what is to be warned about
 * @throws UnsupportedBackendError, StorageError when a key of ours holds something else
 */
export async function checkServer(
  calls: RedisCalls,
  { allowEviction, channel }: { readonly allowEviction: boolean; readonly channel: string },
): Promise<readonly string[]> {
  const [info = '', silence = '', key, kind] = (await calls.run(CHECK, [channel])) as string[]
  if (key !== undefined) {
    // It would make our commands fail in the middle of a MULTI, which Redis does not roll back.
    throw new StorageError(`key "${key}" holds a ${kind}; choose another prefix or remove it`, {
      transient: false,
    })
  }
  const warnings: string[] = []
  if (silence !== '') {
    warnings.push(
      `this Redis user may not publish on ${channel} (${silence}): other processes find events only at their next poll; allow it with ACL SETUSER … &${channel}`,
    )
  }
  if (info === '') {
    warnings.push(
      'this Redis user may not read INFO, so nobody has checked version, maxmemory-policy and AOF; allow it with ACL SETUSER … +info',
    )
    return warnings
  }
  assertVersion(field(info, 'redis_version'))
  if (!allowEviction) assertNoEviction(field(info, 'maxmemory_policy'))
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
    `maxmemory-policy is ${policy || 'not known'}: Redis may drop events and payloads when its memory is full; ` +
      'run CONFIG SET maxmemory-policy noeviction, or pass allowEviction: true if losing them is fine',
  )
}

function field(info: string, name: string): string {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? ''
}
