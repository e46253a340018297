import { Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { outboxContract } from 'outbox-core/testing'
import { describe } from 'vitest'
import { type Connect, redisBackend } from './backend.ts'
import { url as provided } from './open.ts'

const url = provided ?? ''
const connect: Connect = (options) => new Redis(url, options)

describe.skipIf(url === '')('Redis', () => {
  outboxContract(redisBackend({ name: 'ioredis 6', connect }))
  outboxContract(
    redisBackend({
      name: 'ioredis 5',
      connect: (options) => new Redis5(url, options) as unknown as Redis,
      connectRaw: connect,
    }),
  )
  outboxContract(
    redisBackend({
      name: 'ioredis 6 with every option that changes commands and replies',
      connect: (options) =>
        new Redis(url, {
          ...options,
          keyPrefix: 'app:',
          stringNumbers: true,
          enableAutoPipelining: true,
          showFriendlyErrorStack: true,
          db: 1,
        }),
      connectRaw: (options) => new Redis(url, { ...options, db: 1 }),
      keyPrefix: 'app:',
    }),
  )
})
