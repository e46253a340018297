import { StorageError } from 'outbox-core'

/**
 * The moment itself, when it is one. Others would be refused by the document client, or stored where no poll looks,
 * depending on the client's options.
 *
 * @throws StorageError
 */
export function moment(at: number): number {
  if (Math.abs(at) <= Number.MAX_SAFE_INTEGER) return at
  throw new StorageError(
    'a moment is not a number of milliseconds that DynamoDB’s client takes; nothing was sent',
    { transient: false, refused: true },
  )
}
