import { PutItemCommand } from '@aws-sdk/client-dynamodb'
import { attributes } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'
import { parallel } from './parallel.ts'
import { pages } from './query.ts'
import { CLOSED_INDEX, type Tables } from './schema.ts'

/** Before each address in the key of its note: no event's id has a space. */
const PREFIX = 'outbox address '

/** Where the notes are in the index of what is closed. */
const NOTED = 'address'

/**
 * The addresses that events have had, each noted in an item of its own: the partitions of the index of what is due can't
 * be enumerated. An item each, since who only emits may need no right but that to put.
 */
export class Addresses {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #noted = new Map<string, Promise<unknown>>()

  constructor(client: DocumentClient, { events }: Tables) {
    this.#client = client
    this.#table = events
  }

  /** To be awaited before events of these addresses are written, so that none is overlooked; once in a process's life. */
  async note(addresses: Iterable<string>): Promise<void> {
    await parallel([...new Set(addresses)], (address) => this.#noted.get(address) ?? this.#put(address))
  }

  async list(): Promise<readonly string[]> {
    const query = {
      ...{ TableName: this.#table, IndexName: CLOSED_INDEX, KeyConditionExpression: 'closed = :closed' },
      ExpressionAttributeValues: attributes({ ':closed': NOTED }),
    }
    const addresses: string[] = []
    for await (const { Items = [] } of pages<{ id: string }>(this.#client, query))
      addresses.push(...Items.map(({ id }) => id.slice(PREFIX.length)))
    return addresses
  }

  #put(address: string): Promise<unknown> {
    const Item = attributes({ id: PREFIX + address, closed: NOTED, closed_at: 0 })
    const noting = send(this.#client, new PutItemCommand({ TableName: this.#table, Item })).catch(
      (error: unknown) => {
        this.#noted.delete(address)
        throw error
      },
    )
    this.#noted.set(address, noting)
    return noting
  }
}
