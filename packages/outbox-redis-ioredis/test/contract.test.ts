import { Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { outboxContract } from 'outbox-core/testing'
import { afterAll, beforeAll, describe } from 'vitest'
import { type Connect, redisBackend } from './backend.ts'
import { url as provided } from './open.ts'
import { rightsFor } from './rights.ts'

const url = provided ?? ''
const connect: Connect = (options) => new Redis(url, options)

// What the suite does beside the outbox: names its connections, and writes rows of a user's own.
const MORE = ['+client|setname', '+rpush']
const user = `outbox_${process.pid}`
const admin = url === '' ? undefined : new Redis(url)
beforeAll(async () => {
  await admin?.call('ACL', 'SETUSER', user, 'reset', 'on', '>secret', ...rightsFor('place_*'), ...MORE)
})
afterAll(async () => {
  await admin?.call('ACL', 'DELUSER', user)
  admin?.disconnect()
})

describe.skipIf(url === '')('Redis', () => {
  outboxContract(
    redisBackend({
      name: 'ioredis 6, as a user who may do what the README says and no more',
      connect: (options) => new Redis(url, { ...options, username: user, password: 'secret' }),
      connectRaw: connect,
    }),
  )
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
