import type { PostgresListener } from './executor.ts'

/** How many subscriptions share one connection's LISTEN on a channel: the last to go ends it for all. */
const sharing = new WeakMap<object, Map<string, number>>()

/** Calls `wake` on every notification of the channel; the returned function ends it. */
export async function listenOn(
  listener: PostgresListener,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> {
  const end = await ('listen' in listener
    ? listenThrough(listener, channel, wake)
    : listenBeside(listener, channel, wake))
  // Not waited for: the connection may have died without a word, and the subscription with it.
  return async () => void end().catch(() => {})
}

/** postgres.js and PGlite keep subscriptions apart by themselves. */
async function listenThrough(
  listener: Extract<PostgresListener, { listen: unknown }>,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> {
  const listening = await listener.listen(channel, wake)
  return async () => (typeof listening === 'function' ? listening() : listening.unlisten())
}

async function listenBeside(
  listener: Exclude<PostgresListener, { listen: unknown }>,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> {
  const counts = sharing.get(listener) ?? new Map<string, number>()
  sharing.set(listener, counts)
  const share = (change: number): number => {
    const count = (counts.get(channel) ?? 0) + change
    counts.set(channel, count)
    return count
  }
  const onNotification = (message: { channel: string }): void => {
    if (message.channel === channel) wake()
  }
  const end = async (): Promise<void> => {
    listener.removeListener('notification', onNotification)
    if (share(-1) === 0) await listener.query(`UNLISTEN ${channel}`)
  }
  share(1)
  listener.on('notification', onNotification)
  try {
    await listener.query(`LISTEN ${channel}`)
  } catch (error) {
    await end().catch(() => {})
    throw error
  }
  return end
}
