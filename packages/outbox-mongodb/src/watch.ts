import type { MongoChangeStream, MongoCollection, MongoTimeouts } from './client.ts'

// Long enough not to press a server that is down; polling goes on meanwhile.
const REOPEN_MS = 1_000

// Left to itself a server answers every second, whether there was a change or not.
const AWAIT_AT_MOST_MS = 30_000

// Bodies needn't travel to everyone who is woken; `_id` is the stream's resume token.
const INSERTS = [{ $match: { operationType: 'insert' } }, { $project: { _id: 1 } }]

/** Calls `wake` whenever an event was inserted. The driver resumes the stream; where it can't, a new one is opened. */
export function watchInserts(
  events: MongoCollection,
  timeouts: MongoTimeouts | undefined,
  wake: () => void,
): () => Promise<void> {
  // Change streams take no other read concern.
  const options = { readConcern: { level: 'majority' }, maxAwaitTimeMS: awaitMs(timeouts) }
  let stream: MongoChangeStream
  let reopening: NodeJS.Timeout | undefined
  let ended = false
  const open = (): void => {
    stream = events.watch(INSERTS, options)
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

// An answer that comes when the client has stopped waiting is a broken connection.
function awaitMs({ socketTimeoutMS, timeoutMS }: MongoTimeouts = {}): number {
  const answerWithin = Math.min(socketTimeoutMS || Infinity, timeoutMS || Infinity)
  return Math.min(AWAIT_AT_MOST_MS, Math.ceil(answerWithin / 2))
}
