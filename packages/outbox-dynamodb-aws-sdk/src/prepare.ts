import {
  CreateTableCommand,
  type CreateTableCommandInput,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  type TableDescription,
  UpdateTimeToLiveCommand,
} from '@aws-sdk/client-dynamodb'
import { NotInitializedError, UnsupportedBackendError } from 'outbox-core'
import { type DocumentClient, send } from './client.ts'
import { eventsTable, payloadsTable, type Tables, TTL_ATTRIBUTE } from './schema.ts'

const PAUSE_MS = 250
const MOST_PAUSES = 480

type Definition = CreateTableCommandInput | TableDescription

/**
 * Creates the tables or checks those that are there, waits until they are active, switches their time to live on.
 *
 * @throws NotInitializedError, UnsupportedBackendError
 */
export async function prepareTables(client: DocumentClient, options: Tables, create: boolean): Promise<void> {
  const tables = { tables: { events: options.events, payloads: options.payloads }, shards: options.shards }
  for (const wanted of [eventsTable(tables), payloadsTable(tables)]) {
    if (create) await createTable(client, wanted)
    assertSame(wanted, await usableTable(client, wanted))
  }
  await assureTimeToLive(client, options.payloads, create)
}

async function createTable(client: DocumentClient, wanted: CreateTableCommandInput): Promise<void> {
  try {
    if (!(await describe(client, wanted.TableName))) await send(client, new CreateTableCommand(wanted))
  } catch (error) {
    // Another process was quicker.
    if ((error as Error).name !== 'ResourceInUseException') throw error
  }
}

async function usableTable(
  client: DocumentClient,
  wanted: CreateTableCommandInput,
): Promise<TableDescription> {
  const { TableName: name } = wanted
  for (let pauses = 0; pauses < MOST_PAUSES; pauses++) {
    const table = await describe(client, name)
    if (!table)
      throw new NotInitializedError(`table "${name}" is missing; create it or pass createTables: true`)
    if (isUsable(table, wanted)) return table
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
  }
  throw new UnsupportedBackendError(
    `table "${name}" is still not active after two minutes; initialize again later`,
  )
}

/** Whether the table and those of its indexes that we need can be used. One that is being updated can. */
function isUsable(table: TableDescription, wanted: CreateTableCommandInput): boolean {
  const ours = new Set(wanted.GlobalSecondaryIndexes?.map(({ IndexName }) => IndexName))
  const indexes = table.GlobalSecondaryIndexes?.filter(({ IndexName }) => ours.has(IndexName)) ?? []
  const statuses = [table.TableStatus, ...indexes.map(({ IndexStatus }) => IndexStatus)]
  return statuses.every((status) => status === 'ACTIVE' || status === 'UPDATING')
}

async function describe(
  client: DocumentClient,
  TableName: string | undefined,
): Promise<TableDescription | undefined> {
  try {
    return (await send<{ Table?: TableDescription }>(client, new DescribeTableCommand({ TableName }))).Table
  } catch (error) {
    if ((error as Error).name === 'ResourceNotFoundException') return undefined
    throw error
  }
}

/** @throws UnsupportedBackendError unless all keys are there, with their types, and what the indexes project. */
function assertSame(wanted: CreateTableCommandInput, found: TableDescription): void {
  const actual = [...keysOf(found), ...projectionsOf(found)]
  const missing = [...keysOf(wanted), ...projectionsOf(wanted)].filter((part) => !actual.includes(part))
  if (missing.length === 0) return
  throw new UnsupportedBackendError(
    `table "${wanted.TableName}" lacks [${missing.join('; ')}], it has [${keysOf(found).join('; ')}]; ` +
      'use the definitions of eventsTable() and payloadsTable()',
  )
}

function keysOf(table: Definition): string[] {
  const types = new Map(table.AttributeDefinitions?.map((one) => [one.AttributeName, one.AttributeType]))
  const text = (name: string, schema: Definition['KeySchema']): string =>
    `${name}: ${schema?.map((key) => `${key.AttributeName} ${types.get(key.AttributeName)} ${key.KeyType}`)}`
  const indexes = table.GlobalSecondaryIndexes ?? []
  return [
    text('table', table.KeySchema),
    ...indexes.map(({ IndexName, KeySchema }) => text(`index ${IndexName}`, KeySchema)),
  ]
}

/** The attributes beside their keys that indexes hold. An index of all holds whatever is asked of it. */
function projectionsOf(table: Definition): string[] {
  return (table.GlobalSecondaryIndexes ?? []).flatMap(({ IndexName, Projection }) => {
    const names = Projection?.ProjectionType === 'ALL' ? ['state'] : (Projection?.NonKeyAttributes ?? [])
    return names.map((name) => `${name} in index ${IndexName}`)
  })
}

async function assureTimeToLive(client: DocumentClient, TableName: string, change: boolean): Promise<void> {
  type Described = { TimeToLiveDescription?: { TimeToLiveStatus?: string; AttributeName?: string } }
  const described = await send<Described>(client, new DescribeTimeToLiveCommand({ TableName }))
  const { TimeToLiveStatus: status, AttributeName: attribute } = described.TimeToLiveDescription ?? {}
  if (status === 'ENABLED' || status === 'ENABLING') {
    if (attribute === TTL_ATTRIBUTE) return
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" is on "${attribute}", not on "${TTL_ATTRIBUTE}"; change it`,
    )
  }
  if (!change) {
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" is off; switch it on, on attribute "${TTL_ATTRIBUTE}"`,
    )
  }
  await enableTimeToLive(client, TableName)
}

async function enableTimeToLive(client: DocumentClient, TableName: string): Promise<void> {
  const TimeToLiveSpecification = { Enabled: true, AttributeName: TTL_ATTRIBUTE }
  try {
    await send(client, new UpdateTimeToLiveCommand({ TableName, TimeToLiveSpecification }))
  } catch (cause) {
    const { message } = cause as Error
    // Another process was quicker.
    if (/already enabled|is in progress/i.test(message)) return
    if (!/multiple times/i.test(message)) throw cause
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" was switched off a short time ago, and DynamoDB changes it once an ` +
        'hour; initialize again later',
      { cause },
    )
  }
}
