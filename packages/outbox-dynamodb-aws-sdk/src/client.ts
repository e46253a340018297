/** The part of a DynamoDBDocumentClient that is used. */
export interface DocumentClient {
  // Every command has another signature; what is sent is typed where it is made.
  send(command: never): Promise<unknown>
}

/** Sends a command and says what comes back. */
export async function send<Output>(client: DocumentClient, command: object): Promise<Output> {
  return (await client.send(command as never)) as Output
}
