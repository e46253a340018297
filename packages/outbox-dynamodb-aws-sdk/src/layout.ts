import { UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import { assertKnownSchema, type Clock, ConfigurationError } from 'outbox-core'
import { attributes } from './attributes.ts'
import { isAccessDenied } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { ifConditionHolds } from './errors.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'

/** Of the layout that this version writes. A later one has a higher number where this one must not go on. */
const SCHEMA_VERSION = 2

// Every address has so many of its own, and every poll asks them all.
const DEFAULT_SHARDS = 2

/** The key of the note in the events' table: no event's id has a space. */
export const NOTE_ID = 'outbox layout'

interface Note {
  readonly version: number
  /** The most that any process has spread events over. */
  readonly shards: number
  /** When the tables of a version before were taken over: processes of that may run still. */
  readonly upgraded?: number
}

/** What all processes on the same tables have to agree on: a note in the events' table. */
export class Layout {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #clock: Clock
  readonly #asked: number | undefined
  #shards: number
  #upgraded = false
  #note: Promise<Note> | undefined
  #leftToOthers = false

  constructor(client: DocumentClient, { events, shards }: Tables, clock: Clock) {
    this.#client = client
    this.#table = events
    this.#clock = clock
    this.#asked = shards
    this.#shards = shards ?? DEFAULT_SHARDS
  }

  /** How many shards events are spread over. */
  get spread(): number {
    return this.#shards
  }

  /** The shards to look into: our own, and those that another process has added meanwhile. */
  get shards(): readonly string[] {
    return Array.from({ length: this.#shards }, (_, shard) => String(shard))
  }

  /** Whether there may be events of a version before. */
  get isUpgraded(): boolean {
    return this.#upgraded
  }

  /**
   * For whoever takes events: asks once in a process's life.
   *
   * @throws NewerSchemaError; ConfigurationError when there may be events in shards that nobody here would look into
   */
  async agree(): Promise<void> {
    if (this.#leftToOthers) return
    const { shards } = await this.#noted()
    if (this.#asked === undefined || shards <= this.#asked) return
    this.#note = undefined
    throw this.#tooFew(this.#asked, shards)
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
    this.#heed(await this.#read())
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
      this.#heed(note)
      if (note && note.shards >= (this.#asked ?? 0) && note.version === SCHEMA_VERSION) return note
      await this.#raise(note)
    }
  }

  #heed(note: Note | undefined): void {
    this.#shards = Math.max(this.#shards, note?.shards ?? 0)
    // Without an own number only what is noted counts: others look into no more.
    if (this.#asked === undefined && note) this.#shards = note.shards
    this.#upgraded ||= note?.upgraded !== undefined
  }

  #read(): Promise<Note | undefined> {
    return readItem(this.#client, this.#table, NOTE_ID)
  }

  /** Notes our number and version where they are higher, unless someone else has noted others meanwhile. */
  async #raise(seen: Note | undefined): Promise<void> {
    const shards = Math.max(this.#asked ?? (seen ? 1 : DEFAULT_SHARDS), seen?.shards ?? 0)
    const upgrades = seen !== undefined && seen.version < SCHEMA_VERSION
    const request = new UpdateItemCommand({
      TableName: this.#table,
      Key: attributes({ id: NOTE_ID }),
      UpdateExpression: `SET #shards = :shards, #version = :version${upgrades ? ', upgraded = :now' : ''}`,
      ConditionExpression: seen
        ? '#shards = :seenShards AND #version = :seenVersion'
        : 'attribute_not_exists(id)',
      ExpressionAttributeNames: { '#shards': 'shards', '#version': 'version' },
      ExpressionAttributeValues: attributes({
        ...{ ':shards': shards, ':version': SCHEMA_VERSION },
        ...(seen && { ':seenShards': seen.shards, ':seenVersion': seen.version }),
        ...(upgrades && { ':now': this.#clock.now() }),
      }),
    })
    await ifConditionHolds(send(this.#client, request))
  }

  #tooFew(asked: number, noted: number): ConfigurationError {
    return new ConfigurationError(
      'shards',
      asked,
      `table "${this.#table}" may have events in ${noted}, and those beyond would be forgotten; set shards: ${noted} or ` +
        `more in every process. Lower it only while the outbox is empty, by deleting the item "${NOTE_ID}"`,
    )
  }
}
