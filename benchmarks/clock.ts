import { setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds on the clock that all processes of the machine share, and that nobody sets. */
export function machineMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/**
 * An open loop: calls `emit` with the number of calls that are due, at a steady rate, whether the ones before have
 * ended or not. Resolves when all have.
 */
export async function atRate(
  rate: number,
  count: number,
  emit: (from: number, count: number) => unknown,
): Promise<void> {
  const started = machineMs()
  const running = new Set<Promise<unknown>>()
  let failure: Promise<unknown> | undefined
  for (let sent = 0; sent < count; ) {
    const due = Math.min(count, Math.floor(((machineMs() - started) * rate) / 1000) + 1)
    if (due > sent) {
      const emitting = Promise.resolve(emit(sent, due - sent))
      // What has ended must not be kept: it would look as if memory grew.
      const over = (): void => void running.delete(emitting)
      running.add(emitting)
      emitting.then(over, () => {
        failure ??= emitting
        over()
      })
    }
    sent = Math.max(sent, due)
    await sleep(1)
  }
  await Promise.all([...running, failure])
}
