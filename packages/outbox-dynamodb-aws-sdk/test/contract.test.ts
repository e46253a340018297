import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { dynamoBackend } from './backend.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('DynamoDB', () => {
  if (url !== undefined) outboxContract(dynamoBackend(url))
})
