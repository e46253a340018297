import type { RedisListener } from './client.ts'
import { redisError } from './errors.ts'

/** How many of this process listen to each channel of a connection: the last one that ends unsubscribes. */
const listening = new WeakMap<RedisListener, Map<string, number>>()

/** Calls `wake` for every message on a channel. The returned function ends it. */
export async function listenOn(
  listener: RedisListener,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> {
  const onMessage = (from: string): void => {
    if (from === channel) wake()
  }
  count(listener, channel, 1)
  listener.on('message', onMessage)
  const end = async (): Promise<void> => {
    listener.off('message', onMessage)
    if (count(listener, channel, -1) > 0) return
    // The connection may be gone by now, and with it the subscription.
    await listener.unsubscribe(channel).catch(() => {})
  }
  try {
    await listener.subscribe(channel)
  } catch (error) {
    await end()
    throw redisError(error)
  }
  return end
}

function count(listener: RedisListener, channel: string, change: number): number {
  const channels = listening.get(listener) ?? new Map<string, number>()
  listening.set(listener, channels)
  const listeners = (channels.get(channel) ?? 0) + change
  channels.set(channel, listeners)
  return listeners
}
