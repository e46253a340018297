import type { MongoChangeStream, MongoCollection } from './client.ts'

// Long enough not to press a server that is down; polling goes on meanwhile.
const REOPEN_MS = 1_000

// Bodies needn't travel to everyone who is woken; `_id` is the stream's resume token.
const INSERTS = [{ $match: { operationType: 'insert' } }, { $project: { _id: 1 } }]

/** Calls `wake` whenever an event was inserted. The driver resumes the stream; where it can't, a new one is opened. */
export function watchInserts(events: MongoCollection, wake: () => void): () => Promise<void> {
  let stream: MongoChangeStream
  let reopening: NodeJS.Timeout | undefined
  let ended = false
  const open = (): void => {
    // Change streams take no other read concern.
    stream = events.watch(INSERTS, { readConcern: { level: 'majority' } })
    stream.on('change', wake)
    stream.on('error', reopen)
    // So ends a stream whose collection was dropped.
    stream.on('close', reopen)
  }
  const reopen = (): void => {
    if (ended || reopening) return
    reopening = setTimeout(() => {
      reopening = undefined
      open()
      wake()
    }, REOPEN_MS).unref()
  }
  open()
  return async () => {
    ended = true
    clearTimeout(reopening)
    await stream.close().catch(() => {})
  }
}
