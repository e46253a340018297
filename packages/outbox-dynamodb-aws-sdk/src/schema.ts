import {
  CreateTableCommand,
  type CreateTableCommandInput,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  type TableDescription,
  UpdateTimeToLiveCommand,
} from '@aws-sdk/client-dynamodb'
import { identifier, NotInitializedError, UnsupportedBackendError, wholeNumber } from 'outbox-core'
import { type DocumentClient, send } from './client.ts'

export interface DynamoDBTableOptions {
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
  }
  /**
   * Partitions of the due index. Each takes some 1,000 events per second, and each is asked by every poll.
   * @default 4
   */
  readonly shards?: number
}

/** Checked names. */
export interface Tables {
  readonly events: string
  readonly payloads: string
  readonly shards: number
}

export const DUE_INDEX = 'due'
export const CLOSED_INDEX = 'closed'
export const EXPIRY_INDEX = 'expiry'
const TTL_ATTRIBUTE = 'expires_at'

/** @throws ConfigurationError naming the option and its value */
export function tablesOf({ tables = {}, shards = 4 }: DynamoDBTableOptions = {}): Tables {
  return {
    events: identifier('tables.events', tables.events ?? 'outbox_events'),
    payloads: identifier('tables.payloads', tables.payloads ?? 'saga_store'),
    shards: wholeNumber('shards', shards, 1, 256),
  }
}

/** The events' table, for infrastructure code of your own. */
export function eventsTable(options: DynamoDBTableOptions = {}): CreateTableCommandInput {
  return {
    ...definition(tablesOf(options).events),
    AttributeDefinitions: [
      { AttributeName: 'id', AttributeType: 'S' },
      { AttributeName: 'due_shard', AttributeType: 'S' },
      { AttributeName: 'visible', AttributeType: 'N' },
      { AttributeName: 'closed', AttributeType: 'S' },
      { AttributeName: 'closed_at', AttributeType: 'N' },
    ],
    GlobalSecondaryIndexes: [
      {
        ...index(DUE_INDEX, 'due_shard', 'visible'),
        Projection: { ProjectionType: 'INCLUDE', NonKeyAttributes: ['state'] },
      },
      index(CLOSED_INDEX, 'closed', 'closed_at'),
    ],
  }
}

/** The payloads' table, for infrastructure code of your own; its time to live attribute is `expires_at`. */
export function payloadsTable(options: DynamoDBTableOptions = {}): CreateTableCommandInput {
  return {
    ...definition(tablesOf(options).payloads),
    AttributeDefinitions: [
      { AttributeName: 'id', AttributeType: 'S' },
      { AttributeName: 'expiry_shard', AttributeType: 'S' },
      { AttributeName: 'expires_ms', AttributeType: 'N' },
    ],
    GlobalSecondaryIndexes: [index(EXPIRY_INDEX, 'expiry_shard', 'expires_ms')],
  }
}

function definition(TableName: string) {
  return {
    TableName,
    BillingMode: 'PAY_PER_REQUEST' as const,
    KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' as const }],
  }
}

// Sparse: an item is in an index only while it has the index's attributes.
function index(IndexName: string, hash: string, range: string) {
  return {
    IndexName,
    KeySchema: [
      { AttributeName: hash, KeyType: 'HASH' as const },
      { AttributeName: range, KeyType: 'RANGE' as const },
    ],
    Projection: { ProjectionType: 'KEYS_ONLY' as const },
  }
}

/**
 * Creates the tables or checks those that are there, waits until they are active, switches their time to live on.
 *
 * @throws NotInitializedError, UnsupportedBackendError
 */
export async function prepareTables(client: DocumentClient, options: Tables, create: boolean): Promise<void> {
  const tables = { tables: { events: options.events, payloads: options.payloads }, shards: options.shards }
  for (const wanted of [eventsTable(tables), payloadsTable(tables)]) {
    if (create) await createTable(client, wanted)
    assertSame(wanted, await activeTable(client, wanted.TableName ?? ''))
  }
  await enableTimeToLive(client, options.payloads)
}

async function createTable(client: DocumentClient, wanted: CreateTableCommandInput): Promise<void> {
  try {
    if (!(await describe(client, wanted.TableName ?? ''))) await send(client, new CreateTableCommand(wanted))
  } catch (error) {
    // Another process was quicker.
    if ((error as Error).name !== 'ResourceInUseException') throw error
  }
}

async function activeTable(client: DocumentClient, name: string): Promise<TableDescription> {
  for (let waited = 0; waited < 120_000; waited += 250) {
    const table = await describe(client, name)
    if (!table)
      throw new NotInitializedError(`table "${name}" is missing; create it or pass createTables: true`)
    const indexes = table.GlobalSecondaryIndexes ?? []
    if (table.TableStatus === 'ACTIVE' && indexes.every(({ IndexStatus }) => IndexStatus === 'ACTIVE'))
      return table
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
  throw new UnsupportedBackendError(
    `table "${name}" is still not active after two minutes; initialize again later`,
  )
}

async function describe(client: DocumentClient, TableName: string): Promise<TableDescription | undefined> {
  try {
    return (await send<{ Table?: TableDescription }>(client, new DescribeTableCommand({ TableName }))).Table
  } catch (error) {
    if ((error as Error).name === 'ResourceNotFoundException') return undefined
    throw error
  }
}

function assertSame(wanted: CreateTableCommandInput, found: TableDescription): void {
  const keys = (table: CreateTableCommandInput | TableDescription): string =>
    [['table', table.KeySchema] as const]
      .concat(
        (table.GlobalSecondaryIndexes ?? []).map(
          ({ IndexName, KeySchema }) => [IndexName ?? '', KeySchema] as never,
        ),
      )
      .map(
        ([name, schema]) =>
          `${name}: ${schema?.map(({ AttributeName, KeyType }) => `${AttributeName} ${KeyType}`)}`,
      )
      .toSorted()
      .join('; ')
  const [expected, actual] = [keys(wanted), keys(found)]
  const missing = expected.split('; ').filter((part) => !actual.split('; ').includes(part))
  if (missing.length === 0) return
  throw new UnsupportedBackendError(
    `table "${wanted.TableName}" lacks [${missing}], it has [${actual}]; use the definitions of eventsTable() and payloadsTable()`,
  )
}

async function enableTimeToLive(client: DocumentClient, TableName: string): Promise<void> {
  type Described = { TimeToLiveDescription?: { TimeToLiveStatus?: string; AttributeName?: string } }
  const { TimeToLiveDescription: ttl } = await send<Described>(
    client,
    new DescribeTimeToLiveCommand({ TableName }),
  )
  if (ttl?.TimeToLiveStatus === 'ENABLED' || ttl?.TimeToLiveStatus === 'ENABLING') {
    if (ttl.AttributeName === TTL_ATTRIBUTE) return
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" is on "${ttl.AttributeName}", not on "${TTL_ATTRIBUTE}"; change it`,
    )
  }
  const TimeToLiveSpecification = { Enabled: true, AttributeName: TTL_ATTRIBUTE }
  try {
    await send(client, new UpdateTimeToLiveCommand({ TableName, TimeToLiveSpecification }))
  } catch (error) {
    if (!/already enabled|is in progress/i.test((error as Error).message)) throw error
  }
}
