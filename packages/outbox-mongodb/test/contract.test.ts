import { MongoClient } from 'mongodb'
import { MongoClient as MongoClient6 } from 'mongodb6'
import { StorageError } from 'outbox-core'
import { outboxContract } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { mongodb } from '../../../test/servers/mongodb.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { mongoBackend } from './backend.ts'
import {
  dropUsers,
  INITIALIZE_RIGHTS,
  LEAST_RIGHTS,
  type Privilege,
  userWith,
  WATCH_RIGHTS,
} from './least-rights.ts'
import { cleanups } from './opened.ts'

const url = serverUrl()
// The server that other tests share lets everybody do everything.
const strict = url === undefined ? undefined : await mongodb.local({ accessControl: true })
if (!strict) console.error(`!!! NOT TESTED: MongoDB with the least rights; ${mongodb.advice}`)

afterAll(() => strict?.stop())

describe.skipIf(url === undefined)('MongoDB', () => {
  if (url === undefined) return
  outboxContract(mongoBackend(url))
  outboxContract(
    mongoBackend(strict?.url ?? url, {
      name: 'mongodb 6, with the least rights',
      Client: MongoClient6 as unknown as typeof MongoClient,
      restricted: strict !== undefined,
    }),
  )
})

describe.skipIf(!strict)('MongoDB, by the rights of its user', () => {
  test('initialize needs more where something is missing, and to watch is a right of its own', async () => {
    const root = new MongoClient(strict?.url ?? '')
    cleanups.push(() => root.close())
    const db = root.db('rights')
    cleanups.push(() => db.dropDatabase())
    cleanups.push(() => dropUsers(db))
    const outboxWith = async (privileges: readonly Privilege[]) => {
      const client = new MongoClient(await userWith(db, strict?.url ?? '', privileges))
      cleanups.push(() => client.close())
      return new MongoDBOutbox(client, { database: 'rights', watch: true, logger: false })
    }
    const everyday = await outboxWith(LEAST_RIGHTS)
    await expect(everyday.initialize()).rejects.toThrow(StorageError)
    await expect(everyday.initialize()).rejects.toMatchObject({ transient: false, blame: 'environment' })
    await (await outboxWith([...LEAST_RIGHTS, ...INITIALIZE_RIGHTS])).initialize()
    await everyday.initialize()
    await expect(everyday.storage.listen?.(() => {})).rejects.toThrow(/not authorized/)
    const watching = await outboxWith([...LEAST_RIGHTS, ...WATCH_RIGHTS])
    const end = await watching.storage.listen?.(() => {})
    await end?.()
  })
})
