import {
  CreateTableCommand,
  type CreateTableCommandInput,
  DescribeTableCommand,
  GetItemCommand,
  QueryCommand,
  type TableDescription,
} from '@aws-sdk/client-dynamodb'
import { NotInitializedError, UnsupportedBackendError } from 'outbox-core'
import { attributes } from './attributes.ts'
import { isAccessDenied } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { assertSame } from './definitions.ts'
import { eventsTable, payloadsTable, type Tables } from './schema.ts'
import { assureTimeToLive } from './time-to-live.ts'

const PAUSE_MS = 250
const MOST_PAUSES = 480

/** Told what could not be checked. */
export type Warn = (fields: object, message: string) => void

/**
 * Creates the tables or checks those that are there, waits until they are active, switches their time to live on. Where
 * a table may not be described it is asked for items instead: what may be used needs no further rights.
 *
 * @throws NotInitializedError, UnsupportedBackendError
 */
export async function prepareTables(
  client: DocumentClient,
  options: Tables,
  { create, warn }: { readonly create: boolean; readonly warn: Warn },
): Promise<void> {
  const tables = { tables: { events: options.events, payloads: options.payloads } }
  for (const wanted of [eventsTable(tables), payloadsTable(tables)]) {
    await prepareTable(client, wanted, create)
  }
  if (await assureTimeToLive(client, options.payloads, create)) return
  const fields = { table: options.payloads }
  warn(fields, 'the time to live may not be looked at: if it is off, expired payloads stay until cleanup()')
}

async function prepareTable(
  client: DocumentClient,
  wanted: CreateTableCommandInput,
  create: boolean,
): Promise<void> {
  try {
    if (create) await createTable(client, wanted)
    assertSame(wanted, await usableTable(client, wanted))
  } catch (error) {
    if (!isAccessDenied(error as Error)) throw error
    await assertAnswers(client, wanted, error)
  }
}

/** Reads the table and its indexes as the outbox does. What this process may not read, it has no need of. */
async function assertAnswers(
  client: DocumentClient,
  { TableName, GlobalSecondaryIndexes: indexes = [] }: CreateTableCommandInput,
  cause: unknown,
): Promise<void> {
  try {
    await send(client, new GetItemCommand({ TableName, Key: attributes({ id: 'none' }) }))
  } catch (error) {
    if (isAccessDenied(error as Error)) return
    if ((error as Error).name !== 'ResourceNotFoundException') throw error
    throw new NotInitializedError(
      `table "${TableName}" is missing, and this process may not create it (${(cause as Error).message}); create it ` +
        'after eventsTable() and payloadsTable(), or allow dynamodb:DescribeTable and dynamodb:CreateTable',
      { cause },
    )
  }
  for (const { IndexName, KeySchema: [key] = [], Projection } of indexes) {
    const [projected] = Projection?.NonKeyAttributes ?? []
    const names = {
      '#key': key?.AttributeName ?? '',
      ...(projected !== undefined && { '#projected': projected }),
    }
    const request = new QueryCommand({
      ...{ TableName, IndexName, Limit: 1, KeyConditionExpression: '#key = :key' },
      ...{ ExpressionAttributeNames: names, ExpressionAttributeValues: attributes({ ':key': 'none' }) },
      ...(projected !== undefined && { ProjectionExpression: '#projected' }),
    })
    try {
      await send(client, request)
    } catch (error) {
      if (!isAccessDenied(error as Error)) throw error
    }
  }
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
