/** The part of a DynamoDBDocumentClient that is used. */
export interface DocumentClient {
  // Every command has another signature; what is sent is typed where it is made.
  send(command: never): Promise<unknown>
}

/** Sends a command and says what comes back. */
export async function send<Output>(client: DocumentClient, command: object): Promise<Output> {
  return (await client.send(command as never)) as Output
}

/**
 * An item of ours with plain numbers, whatever the user's client makes of them (`wrapNumbers`): ours have strings,
 * numbers and bytes on one level.
 */
export function plain<Item>(item: Item): Item {
  const entries = Object.entries(item as object).map(([name, value]) => [name, plainValue(value)])
  return Object.fromEntries(entries) as Item
}

function plainValue(value: unknown): unknown {
  const wrapped = typeof value === 'bigint' || (typeof value === 'object' && value !== null)
  return wrapped && !(value instanceof Uint8Array) ? Number(value) : value
}
