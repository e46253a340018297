import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { mongoBackend } from './backend.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('MongoDB', () => {
  if (url !== undefined) outboxContract(mongoBackend(url))
})
