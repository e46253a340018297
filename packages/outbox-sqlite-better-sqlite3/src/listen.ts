import { watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Connection } from './connection.ts'
import type { SqliteStatement } from './database.ts'
import { isBusy } from './errors.ts'

// What the file system tells of is a write, whose commit may take a while: look soon, then ever more rarely.
const FIRST_LOOK_AFTER_MS = 1
const LAST_LOOK_AFTER_MS = 32

/**
 * Calls `wake` when another connection, most likely in another process, has committed to the database's file. The
 * file system says that something changed, `data_version` whether it was someone else. Where the file system can't
 * tell, polling has to do.
 */
export function watchOtherConnections(connection: Connection, wake: () => void): () => void {
  const { db } = connection
  const path = db.memory ? '' : realPath(connection)
  if (path === '') return () => {}
  const name = basename(path)
  let version: SqliteStatement | undefined
  const current = (): unknown => {
    version ??= connection.prepare('PRAGMA data_version').pluck(true)
    return version.get()
  }
  let seen: unknown
  let timer: NodeJS.Timeout | undefined
  let pause = FIRST_LOOK_AFTER_MS

  const look = (): void => {
    timer = undefined
    // A statement in someone's transaction would see its snapshot, not what others have committed since.
    if (db.inTransaction) {
      lookLater()
      return
    }
    try {
      const now = current()
      if (seen !== undefined && now !== seen) wake()
      seen = now
    } catch (error) {
      if (isBusy(error)) lookLater()
      else stop()
      return
    }
    pause *= 2
    if (pause <= LAST_LOOK_AFTER_MS) lookLater()
  }
  const lookLater = (): void => {
    timer ??= setTimeout(look, pause).unref()
  }
  const lookSoon = (): void => {
    if (pause > FIRST_LOOK_AFTER_MS) {
      clearTimeout(timer)
      timer = undefined
      pause = FIRST_LOOK_AFTER_MS
    }
    lookLater()
  }
  let stop = (): void => {}
  try {
    const watcher = watch(dirname(path), { persistent: false }, (_, file) => {
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

// Where SQLite has its file, and the log beside it: behind links, and wherever the process has gone since.
function realPath(connection: Connection): string {
  const files = connection.prepare('PRAGMA database_list').all() as { name: string; file: string }[]
  return files.find(({ name }) => name === 'main')?.file ?? ''
}
