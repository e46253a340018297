import { keysOf, rightsOf } from '../src/schema.ts'

/** What to give to a user of an outbox, as arguments of ACL SETUSER. */
export function rightsFor(prefix: string): string[] {
  return rightsOf(keysOf(prefix)).split(' ')
}
