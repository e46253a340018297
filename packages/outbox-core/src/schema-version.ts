import { OutboxError } from './errors.ts'

/**
 * What is stored was laid out by a newer version of this library, and may be where this one does not look: nothing of
 * it was read or changed.
 */
export class NewerSchemaError extends OutboxError {
  readonly code = 'OUTBOX_NEWER_SCHEMA'
  override readonly blame = 'process'
  /** The version that is stored. */
  readonly stored: number
  /** The newest version that this process knows. */
  readonly known: number

  constructor(place: string, stored: number, known: number) {
    super(
      `${place} has schema version ${stored}, and this version of the package knows none after ${known}; ` +
        'update the package in this process, or give it a place of its own',
    )
    this.stored = stored
    this.known = known
  }
}

/**
 * For adapters, before they use what is stored. An older version is theirs to bring up to date.
 *
 * @param place what is named in the error: `table "outbox_events"`, say
 * @param stored the version noted there
 * @param known the newest version that the adapter writes
 * @throws NewerSchemaError when the stored version is higher than the known one, or is no version at all
 */
export function assertKnownSchema(place: string, stored: number, known: number): void {
  if (!(stored <= known)) throw new NewerSchemaError(place, stored, known)
}
