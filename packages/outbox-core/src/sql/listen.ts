import { StorageError } from '../errors.ts'
import type { PostgresConnection, PostgresListener, PostgresSubscriber } from './executor.ts'

/** Somebody who listens on a channel: what to call on every notification, and once when there will be none any more. */
interface Ears {
  readonly wake: () => void
  readonly lost: (error: Error) => void
}

type End = () => Promise<void>

type Listen = (
  channel: string,
  listener: () => void,
  listened?: () => void,
) => ReturnType<PostgresSubscriber['listen']>

/** How many subscriptions share one connection's LISTEN on a channel: the last to go ends it for all. */
const sharing = new WeakMap<object, Map<string, number>>()

/** Calls `wake` on every notification of the channel; the returned function ends it. */
export async function listenOn(listener: PostgresListener, channel: string, ears: Ears): Promise<End> {
  const end = isFactory(listener)
    ? await listenThroughNew(await listener(), channel, ears)
    : await listenThrough(listener, channel, ears)
  // Not waited for: the connection may have died without a word, and the subscription with it.
  return async () => void end().catch(() => {})
}

// postgres.js is a function itself.
function isFactory(listener: PostgresListener): listener is Extract<PostgresListener, () => unknown> {
  return typeof listener === 'function' && !('listen' in listener)
}

function listenThrough(
  listener: PostgresConnection | PostgresSubscriber,
  channel: string,
  ears: Ears,
): Promise<End> {
  if ('listen' in listener) return subscribe(listener, channel, ears)
  return listenBeside(listener, channel, ears.wake, (cause) => ears.lost(deaf(cause)))
}

/** A connection made for this subscription ends with it, or when it is lost. */
async function listenThroughNew(
  connection: PostgresConnection | PostgresSubscriber,
  channel: string,
  ears: Ears,
): Promise<End> {
  if ('listen' in connection) return subscribe(connection, channel, ears)
  const close = async (): Promise<void> => void (await connection.end?.())
  const ended = (cause?: Error): void => {
    void close().catch(ignore)
    ears.lost(new StorageError(ending(cause), { cause, transient: true }))
  }
  try {
    // Whoever has connected it already is told so, which harms nothing; whoever can't is told by what follows.
    connection.on('error', ignore)
    await connection.connect?.().catch(ignore)
    await listenBeside(connection, channel, ears.wake, ended)
  } catch (error) {
    await close().catch(ignore)
    throw error
  }
  return close
}

/** postgres.js and PGlite keep subscriptions apart by themselves; postgres.js also brings them back by itself. */
async function subscribe(subscriber: PostgresSubscriber, channel: string, { wake }: Ears): Promise<End> {
  // What was sent while postgres.js was away is lost; PGlite is never away.
  const listen = subscriber.listen.bind(subscriber) as Listen
  const listening = await (typeof subscriber === 'function'
    ? listen(channel, wake, wake)
    : listen(channel, wake))
  return async () => (typeof listening === 'function' ? listening() : listening.unlisten())
}

async function listenBeside(
  connection: PostgresConnection,
  channel: string,
  wake: () => void,
  ended: (cause?: Error) => void,
): Promise<End> {
  const counts = sharing.get(connection) ?? new Map<string, number>()
  // An error that nobody listens for would end the process.
  if (!sharing.has(connection)) connection.on('error', ignore)
  sharing.set(connection, counts)
  const share = (change: number): number => {
    const count = (counts.get(channel) ?? 0) + change
    counts.set(channel, count)
    return count
  }
  const onNotification = (message: { channel: string }): void => {
    if (message.channel === channel) wake()
  }
  const onEnd = (error?: Error): void => {
    quiet()
    ended(error)
  }
  const quiet = (): void => {
    connection.removeListener('notification', onNotification)
    connection.removeListener('error', onEnd)
    connection.removeListener('end', onEnd)
  }
  const end = async (): Promise<void> => {
    quiet()
    if (share(-1) === 0) await connection.query(`UNLISTEN ${channel}`)
  }
  share(1)
  connection.on('notification', onNotification)
  connection.on('error', onEnd)
  connection.on('end', onEnd)
  try {
    await connection.query(`LISTEN ${channel}`)
  } catch (error) {
    await end().catch(() => {})
    throw error
  }
  return end
}

function ending(cause: Error | undefined): string {
  return `the connection that listens has ended (${cause?.message ?? 'it was closed'})`
}

function deaf(cause: Error | undefined): StorageError {
  const advice =
    'pass a function that makes one, listener: () => new pg.Client(…): it is called whenever that happens'
  return new StorageError(`${ending(cause)}; ${advice}`, { cause, transient: false })
}

function ignore(): void {}
