import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { redisBackend } from './backend.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('Redis', () => {
  if (url !== undefined) outboxContract(redisBackend(url))
})
