import { UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import { assertKnownSchema, ConfigurationError } from 'outbox-core'
import { attributes } from './attributes.ts'
import { isAccessDenied } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { ifConditionHolds } from './errors.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'

/** Of the layout that this version writes. A later one has a higher number where this one must not go on. */
const SCHEMA_VERSION = 1

/** The key of the note in the events' table: no event's id has a space. */
export const NOTE_ID = 'outbox layout'

interface Note {
  readonly version: number
  /** The most that any process has spread events over. */
  readonly shards: number
}

/** What all processes on the same tables have to agree on: a note in the events' table. */
export class Layout {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #own: number
  #shards: number
  #note: Promise<Note> | undefined
  #leftToOthers = false

  constructor(client: DocumentClient, { events, shards }: Tables) {
    this.#client = client
    this.#table = events
    this.#own = shards
    this.#shards = shards
  }

  /** The shards to look into: our own, and those that another process has added meanwhile. */
  get shards(): readonly string[] {
    return Array.from({ length: this.#shards }, (_, shard) => String(shard))
  }

  /**
   * For whoever takes events: asks once in a process's life.
   *
   * @throws NewerSchemaError; ConfigurationError when there may be events in shards that nobody here would look into
   */
  async agree(): Promise<void> {
    if (this.#leftToOthers) return
    const { shards } = await this.#noted()
    if (shards <= this.#own) return
    this.#note = undefined
    throw this.#tooFew(shards)
  }

  /**
   * For whoever adds events: others have to know of the shards they go to. Fewer than there are do no harm. Who may not
   * read or change the note has to leave it to others.
   *
   * @throws NewerSchemaError
   */
  async announce(): Promise<void> {
    if (this.#leftToOthers) return
    try {
      await this.#noted()
    } catch (error) {
      if (!isAccessDenied(error as Error)) throw error
      this.#leftToOthers = true
    }
  }

  /** Looks again whether another process has added shards. */
  async refresh(): Promise<void> {
    const note = await this.#read()
    this.#shards = Math.max(this.#shards, note?.shards ?? 0)
  }

  /** What is noted, with us in it; asked for again only when that failed. */
  #noted(): Promise<Note> {
    this.#note ??= this.#noting().catch((error: unknown) => {
      this.#note = undefined
      throw error
    })
    return this.#note
  }

  async #noting(): Promise<Note> {
    for (;;) {
      const note = await this.#read()
      if (note) assertKnownSchema(`table "${this.#table}"`, note.version, SCHEMA_VERSION)
      if (note && note.shards >= this.#own && note.version === SCHEMA_VERSION) return note
      await this.#raise(note)
    }
  }

  #read(): Promise<Note | undefined> {
    return readItem(this.#client, this.#table, NOTE_ID)
  }

  /** Notes our number and version where they are higher, unless someone else has noted others meanwhile. */
  async #raise(seen: Note | undefined): Promise<void> {
    const shards = Math.max(this.#own, seen?.shards ?? 0)
    const request = new UpdateItemCommand({
      TableName: this.#table,
      Key: attributes({ id: NOTE_ID }),
      UpdateExpression: 'SET #shards = :shards, #version = :version',
      ConditionExpression: seen
        ? '#shards = :seenShards AND #version = :seenVersion'
        : 'attribute_not_exists(id)',
      ExpressionAttributeNames: { '#shards': 'shards', '#version': 'version' },
      ExpressionAttributeValues: attributes({
        ...{ ':shards': shards, ':version': SCHEMA_VERSION },
        ...(seen && { ':seenShards': seen.shards, ':seenVersion': seen.version }),
      }),
    })
    await ifConditionHolds(send(this.#client, request))
  }

  #tooFew(noted: number): ConfigurationError {
    return new ConfigurationError(
      'shards',
      this.#own,
      `table "${this.#table}" may have events in ${noted}, and those beyond would be forgotten; set shards: ${noted} or ` +
        `more in every process. Lower it only while the outbox is empty, by deleting the item "${NOTE_ID}"`,
    )
  }
}
