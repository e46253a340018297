import { watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Connection, SqliteStatement } from './connection.ts'
import { isBusy } from './errors.ts'

// Commits of one's own touch the file too: looking more often would only cost statements.
const LOOK_AT_MOST_EVERY_MS = 5

/**
 * Calls `wake` when another connection, most likely in another process, has committed to the database's file. The
 * file system says that something changed, `data_version` whether it was someone else. Where the file system can't
 * tell, polling has to do.
 */
export function watchOtherConnections(connection: Connection, wake: () => void): () => void {
  const { db } = connection
  if (db.memory || db.name === '') return () => {}
  const name = basename(db.name)
  let version: SqliteStatement | undefined
  const current = (): unknown => {
    version ??= connection.prepare('PRAGMA data_version').pluck(true)
    return version.get()
  }
  let seen: unknown
  let timer: NodeJS.Timeout | undefined

  const look = (): void => {
    timer = undefined
    // A statement in someone's transaction would see its snapshot, not what others have committed since.
    if (db.inTransaction) {
      lookSoon()
      return
    }
    try {
      const now = current()
      if (seen !== undefined && now !== seen) wake()
      seen = now
    } catch (error) {
      if (isBusy(error)) lookSoon()
      else stop()
    }
  }
  const lookSoon = (): void => {
    timer ??= setTimeout(look, LOOK_AT_MOST_EVERY_MS).unref()
  }
  let stop = (): void => {}
  try {
    const watcher = watch(dirname(db.name), { persistent: false }, (_, file) => {
      if (file === null || file.startsWith(name)) lookSoon()
    })
    watcher.on('error', () => stop())
    stop = () => {
      clearTimeout(timer)
      watcher.close()
    }
  } catch {
    return stop
  }
  look()
  return () => stop()
}
