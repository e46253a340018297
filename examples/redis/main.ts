/** ioredis: REDIS_URL=redis://… npm run example redis */
import { type ChainableCommander, Redis } from 'ioredis'
import { RedisIoredisOutbox } from 'outbox-redis-ioredis'
import { runOrders } from '../orders.ts'

const redis = new Redis(process.env['REDIS_URL'] ?? '') // your own client
const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix: 'redis_example' })

await runOrders(outbox, (multi, id) => void multi.set(`{redis_example}:order:${id}`, 'placed'))

await redis.del(...(await redis.keys('{redis_example}:*')))
await redis.quit()
