import type { CreateTableCommandInput, TableDescription } from '@aws-sdk/client-dynamodb'
import { UnsupportedBackendError } from 'outbox-core'

type Definition = CreateTableCommandInput | TableDescription

/** @throws UnsupportedBackendError unless all keys are there, with their types, and what the indexes project. */
export function assertSame(wanted: CreateTableCommandInput, found: TableDescription): void {
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
