import { DescribeTimeToLiveCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb'
import { UnsupportedBackendError } from 'outbox-core'
import { isAccessDenied } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { TTL_ATTRIBUTE } from './schema.ts'

interface TimeToLive {
  readonly TimeToLiveStatus?: string
  readonly AttributeName?: string
}

/**
 * Sees to it that a table deletes its expired items, or says that it could not look.
 *
 * @throws UnsupportedBackendError
 */
export async function assureTimeToLive(
  client: DocumentClient,
  TableName: string,
  change: boolean,
): Promise<boolean> {
  const described = await describe(client, TableName)
  if (!described) return false
  const { TimeToLiveStatus: status, AttributeName: attribute } = described
  if (status === 'ENABLED' || status === 'ENABLING') {
    if (attribute === TTL_ATTRIBUTE) return true
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" is on "${attribute}", not on "${TTL_ATTRIBUTE}"; change it`,
    )
  }
  if (!change) throw isOff(TableName)
  await enableTimeToLive(client, TableName)
  return true
}

/** Undefined where it may not be looked at. */
async function describe(client: DocumentClient, TableName: string): Promise<TimeToLive | undefined> {
  type Described = { TimeToLiveDescription?: TimeToLive }
  try {
    const described = await send<Described>(client, new DescribeTimeToLiveCommand({ TableName }))
    return described.TimeToLiveDescription ?? {}
  } catch (error) {
    if (isAccessDenied(error as Error)) return undefined
    throw error
  }
}

async function enableTimeToLive(client: DocumentClient, TableName: string): Promise<void> {
  const TimeToLiveSpecification = { Enabled: true, AttributeName: TTL_ATTRIBUTE }
  try {
    await send(client, new UpdateTimeToLiveCommand({ TableName, TimeToLiveSpecification }))
  } catch (cause) {
    const { message } = cause as Error
    // Another process was quicker.
    if (/already enabled|is in progress/i.test(message)) return
    if (isAccessDenied(cause as Error)) throw isOff(TableName, { cause })
    if (!/multiple times/i.test(message)) throw cause
    throw new UnsupportedBackendError(
      `the time to live of table "${TableName}" was switched off a short time ago, and DynamoDB changes it once an ` +
        'hour; initialize again later',
      { cause },
    )
  }
}

function isOff(table: string, options?: ErrorOptions): UnsupportedBackendError {
  return new UnsupportedBackendError(
    `the time to live of table "${table}" is off; switch it on, on attribute "${TTL_ATTRIBUTE}"`,
    options,
  )
}
