import { randomBytes } from 'node:crypto'
import type { Db } from 'mongodb'

/** All that an outbox is given where somebody else has initialized it. */
const EVERYDAY = ['find', 'insert', 'update', 'remove', 'listIndexes']

export interface Privilege {
  readonly collection: string
  readonly actions: readonly string[]
}

export const LEAST_RIGHTS: readonly Privilege[] = [
  { collection: 'outbox_events', actions: EVERYDAY },
  { collection: 'saga_store', actions: EVERYDAY },
  { collection: 'outbox_events_keys', actions: EVERYDAY },
  { collection: 'outbox_events_notes', actions: ['find'] },
]

/** What `initialize` needs beside it, and nothing else does. */
export const INITIALIZE_RIGHTS: readonly Privilege[] = [
  { collection: 'outbox_events', actions: ['createCollection', 'createIndex', 'dropIndex'] },
  { collection: 'saga_store', actions: ['createCollection', 'createIndex'] },
  { collection: 'outbox_events_keys', actions: ['createCollection'] },
  { collection: 'outbox_events_notes', actions: ['insert', 'update'] },
]

/** What `watch: true` needs beside it. */
export const WATCH_RIGHTS: readonly Privilege[] = [{ collection: 'outbox_events', actions: ['changeStream'] }]

/** Creates a user of a database with such rights in it; returns the server's URL for that user. */
export async function userWith(db: Db, url: string, privileges: readonly Privilege[]): Promise<string> {
  const name = `user_${randomBytes(6).toString('hex')}`
  const pwd = randomBytes(12).toString('hex')
  const inDatabase = privileges.map(({ collection, actions }) => ({
    resource: { db: db.databaseName, collection },
    actions,
  }))
  await db.command({ createRole: name, privileges: inDatabase, roles: [] })
  await db.command({ createUser: name, pwd, roles: [name], mechanisms: ['SCRAM-SHA-1'] })
  const restricted = new URL(url)
  restricted.username = name
  restricted.password = pwd
  restricted.searchParams.set('authSource', db.databaseName)
  return restricted.href
}

/** Users and roles outlive their database otherwise. */
export async function dropUsers(db: Db): Promise<void> {
  await db.command({ dropAllUsersFromDatabase: 1 })
  await db.command({ dropAllRolesFromDatabase: 1 })
}
