/**
 * Where core takes its time from, so that tests can turn it by hand. It paces polling, backoff, timeouts and
 * saga deadlines; what is due, leased or expired is decided by the database's own clock.
 */
export interface Clock {
  /** Milliseconds since the epoch. Whoever sets the machine's clock makes it jump: only for moments that others see. */
  now(): number
  /** Milliseconds since some moment of the past, never set: for everything that is waited for or measured here. */
  elapsed(): number
  /**
   * Calls `callback` once after `ms` milliseconds, however many; at once when they are no number or negative, but never
   * before it has returned. The returned function cancels it.
   */
  after(ms: number, callback: () => void): () => void
}

// setTimeout fires at once for anything above a signed 32-bit number of milliseconds.
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** The process's own clock. */
export const systemClock: Clock = {
  // Looked up when called, so that fake timers work.
  now: () => Date.now(),
  elapsed: () => performance.now(),
  after(ms, callback) {
    let left = Number.isNaN(ms) ? 0 : Math.max(ms, 0)
    let timer: ReturnType<typeof setTimeout>
    const arm = (): void => {
      const wait = Math.min(left, LONGEST_TIMER_MS)
      left -= wait
      timer = setTimeout(left > 0 ? arm : callback, wait)
    }
    arm()
    return () => clearTimeout(timer)
  },
}

/**
 * Whether `work` has ended within `ms`; later it is not waited for.
 *
 * @throws what `work` rejects with within that time
 */
export function endsWithin(
  clock: Pick<Clock, 'after'>,
  ms: number,
  work: Promise<unknown>,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(ms, () => resolve(false))
    work.then(() => resolve(true), reject).finally(cancel)
  })
}
