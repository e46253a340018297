import { randomUUID } from 'node:crypto'
import {
  type AttributeValue,
  DeleteTableCommand,
  DynamoDBClient,
  type DynamoDBClientConfig,
} from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, ScanCommand, type TranslateConfig } from '@aws-sdk/lib-dynamodb'
import { type Lease, type NewEvent, OutboxEventBus, type Outcome } from 'outbox-core'
import { afterEach, inject } from 'vitest'
import { plain } from '../src/attributes.ts'
import { DynamoDBAwsSdkOutbox, type DynamoDBAwsSdkOutboxOptions } from '../src/index.ts'

/** What a test has to undo, done last first when it ends. */
export const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

/** Answers a request instead of DynamoDB, or lets it through; gets what was sent, key and values as they are in JavaScript. */
type Answer = (input: Record<string, unknown>, through: () => Promise<unknown>) => unknown

export interface Opened {
  readonly client: DynamoDBDocumentClient
  readonly tables: { readonly events: string; readonly payloads: string }
  readonly outbox: DynamoDBAwsSdkOutbox
  readonly bus: OutboxEventBus
  /** The commands that are sent while `work` runs. */
  during(work: () => Promise<unknown>): Promise<string[]>
  /** Answers the next command of this name that `only` holds for. */
  answer(name: string, answer: Answer, only?: (input: Record<string, unknown>) => boolean): void
  /** Fails the next command of this name, as the SDK does after its own tries. */
  fail(name: string, error: object, only?: (input: Record<string, unknown>) => boolean): void
}

export function documentClient(
  config: DynamoDBClientConfig = {},
  translation: TranslateConfig = {},
): DynamoDBDocumentClient {
  const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }
  const endpoint = inject('serverUrl') ?? ''
  return DynamoDBDocumentClient.from(
    new DynamoDBClient({ endpoint, region: 'local', credentials, ...config }),
    translation,
  )
}

export function tableNames(): { events: string; payloads: string } {
  const suffix = randomUUID().replaceAll('-', '').slice(0, 16)
  return { events: `events_${suffix}`, payloads: `payloads_${suffix}` }
}

/** An outbox with tables of its own. */
export async function opened(
  options: DynamoDBAwsSdkOutboxOptions = {},
  translation: TranslateConfig = {},
): Promise<Opened> {
  const client = documentClient({}, translation)
  const requests: string[] = []
  const answers: { name: string; answer: Answer; only: (input: Record<string, unknown>) => boolean }[] = []
  client.middlewareStack.add(
    (next, context) => async (args) => {
      const command = String(context.commandName).replace(/Items?Command$/, 'Command')
      const input = readable(args.input)
      requests.push(command)
      const index = answers.findIndex(({ name, only }) => name === command && only(input))
      if (index === -1) return next(args)
      const [found] = answers.splice(index, 1)
      const through = async (): Promise<unknown> => (await next(args)).output
      return { response: {}, output: (await found?.answer(input, through)) as never }
    },
    { step: 'initialize' },
  )
  const tables = tableNames()
  cleanups.push(async () => {
    for (const TableName of Object.values(tables)) {
      await client.send(new DeleteTableCommand({ TableName })).catch(() => {})
    }
    client.destroy()
  })
  const outbox = new DynamoDBAwsSdkOutbox(client, { tables, logger: false, ...options })
  await outbox.initialize()
  const answer: Opened['answer'] = (name, given, only = () => true) =>
    void answers.push({ name, answer: given, only })
  return {
    ...{ client, tables, outbox, bus: new OutboxEventBus(outbox), answer },
    async during(work) {
      requests.length = 0
      await work()
      return [...requests]
    },
    fail(name, error, only) {
      answer(
        name,
        () => {
          throw error
        },
        only,
      )
    },
  }
}

/** What is stored of events, read with the raw client. */
export async function eventItems(
  client: DynamoDBDocumentClient,
  tables: { readonly events: string },
): Promise<Record<string, unknown>[]> {
  const { Items = [] } = await client.send(
    new ScanCommand({ TableName: tables.events, ConsistentRead: true }),
  )
  return Items.filter(({ state }) => state !== undefined)
}

/** The input of a command, its key and its values out of DynamoDB's own form where they are in it. */
function readable(input: object): Record<string, unknown> {
  const { Key, ExpressionAttributeValues } = input as Record<string, Record<string, unknown> | undefined>
  return {
    ...input,
    ...(Key && { Key: unmarshalled(Key) }),
    ...(ExpressionAttributeValues && { ExpressionAttributeValues: unmarshalled(ExpressionAttributeValues) }),
  }
}

function unmarshalled(values: Record<string, unknown>): Record<string, unknown> {
  const inForm = Object.values(values).every((value) => typeof value === 'object' && value !== null)
  return inForm ? plain(values as Record<string, AttributeValue>) : values
}

/** An error as the SDK makes it. */
export function awsError(name: string, more: object = {}): Error {
  return Object.assign(new Error(name), { name, ...more })
}

export function canceled(...codes: string[]): Error {
  return awsError('TransactionCanceledException', { CancellationReasons: codes.map((Code) => ({ Code })) })
}

/** Leases events of type `a`, with nothing asked before. */
export function lease({ outbox: { storage } }: Pick<Opened, 'outbox'>, limit: number, leaseMs = 60_000) {
  return storage.lease({ limit, leaseMs, addresses: [{ address: 'a', limit }] })
}

/** An outcome of the given parts. */
export function outcome(parts: Partial<Outcome>): Outcome {
  return { append: [], put: [], remove: [], ...parts }
}

export function event(id: string, changes: Partial<NewEvent> = {}): NewEvent {
  const { type = 'a', address = type } = changes
  return {
    ...{ id, type, address, key: null, body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null },
    ...changes,
  }
}

/** Completes a leased event, by default without retention. */
export function completing(
  { id, attempt, key = null }: Lease & { readonly key?: string | null },
  parts: Partial<Outcome> = {},
  keepMs = 0,
): Outcome {
  return outcome({ settle: { kind: 'complete', id, attempt, key, keepMs }, ...parts })
}

export function payload(id: string, data: Uint8Array, inMs = 3_600_000) {
  return { id, data, expires: { inMs } }
}
