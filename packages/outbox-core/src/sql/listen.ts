import type { PostgresListener } from './executor.ts'

/** Calls `wake` on every notification of the channel; the returned function ends it. */
export async function listenOn(
  listener: PostgresListener,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> {
  if ('listen' in listener) {
    const listening = await listener.listen(channel, wake)
    const unlisten = typeof listening === 'function' ? listening : listening.unlisten
    return async () => unlisten()
  }
  const onNotification = (message: { channel: string }): void => {
    if (message.channel === channel) wake()
  }
  listener.on('notification', onNotification)
  await listener.query(`LISTEN "${channel}"`)
  return async () => {
    listener.removeListener('notification', onNotification)
    // The connection may be gone by now, and with it the subscription.
    await listener.query(`UNLISTEN "${channel}"`).catch(() => {})
  }
}
