import type { Database } from '../contender.ts'
import { dynamodb } from './dynamodb.ts'
import { mongodb } from './mongodb.ts'
import { postgres } from './postgres.ts'
import { redis } from './redis.ts'
import { sqlite } from './sqlite.ts'

/** Each starts its server, if there is one here. */
export const databases: ReadonlyMap<string, () => Promise<Database | undefined>> = new Map([
  ['sqlite', sqlite],
  ['postgres', postgres],
  ['redis', redis],
  ['mongodb', mongodb],
  ['dynamodb', dynamodb],
])
