import type { MongoClient } from 'mongodb'
import { MongoClient as MongoClient6 } from 'mongodb6'
import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { mongoBackend } from './backend.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('MongoDB', () => {
  if (url === undefined) return
  outboxContract(mongoBackend(url))
  outboxContract(mongoBackend(url, 'mongodb 6', MongoClient6 as unknown as typeof MongoClient))
})
