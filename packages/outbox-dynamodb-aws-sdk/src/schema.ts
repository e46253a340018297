import type { CreateTableCommandInput } from '@aws-sdk/client-dynamodb'
import { ConfigurationError, identifiers, wholeNumber } from 'outbox-core'

export interface DynamoDBTableOptions {
  /** Names of the tables: a letter or _, then letters, digits and _, 3 to 48 characters. */
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
  }
  /**
   * Partitions of the index of what is due, for each address. Each takes some 200 events per second, and each is asked by
   * every poll. It is noted in the events' table: it may be raised at any time, and a lower one than was noted is refused,
   * since nobody would ask the partitions beyond it.
   * @default what is noted, 2 where nothing is
   */
  readonly shards?: number
}

/** Checked names. */
export interface Tables {
  readonly events: string
  readonly payloads: string
  /** Undefined where it is left to what is noted. */
  readonly shards: number | undefined
}

export const DUE_INDEX = 'due'
export const CLOSED_INDEX = 'closed'
export const TTL_ATTRIBUTE = 'expires_at'

/** @throws ConfigurationError naming the option and its value */
export function tablesOf({ tables = {}, shards }: DynamoDBTableOptions = {}): Tables {
  const names = identifiers('tables', {
    events: tables.events ?? 'outbox_events',
    payloads: tables.payloads ?? 'saga_store',
  })
  for (const [kind, name] of Object.entries(names)) {
    if (name.length < 3)
      throw new ConfigurationError(`tables.${kind}`, name, 'DynamoDB asks for 3 characters or more')
  }
  return {
    ...names,
    shards: shards === undefined ? undefined : wholeNumber('shards', shards, 1, 256),
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

/** The payloads' table, for infrastructure code of your own; switch its time to live on, on attribute `expires_at`. */
export function payloadsTable(options: DynamoDBTableOptions = {}): CreateTableCommandInput {
  return {
    ...definition(tablesOf(options).payloads),
    // No index of what expires: it would cost as much again as a small payload, and DynamoDB deletes by itself.
    AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
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
