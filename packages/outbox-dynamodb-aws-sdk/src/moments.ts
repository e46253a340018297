import { assertMoment, type Clock, type When } from 'outbox-core'

/**
 * The moment itself, when it is one. Others would be refused by the document client, or stored where no poll looks,
 * depending on the client's options.
 *
 * @throws StorageError
 */
export function moment(at: number): number {
  assertMoment(at, (ms) => Math.abs(ms) <= Number.MAX_SAFE_INTEGER)
  return at
}

/** @throws StorageError */
export function momentOf(when: When, clock: Clock): number {
  return moment('at' in when ? Math.round(when.at) : clock.now() + when.inMs)
}
