import type { Attempt } from '../delivering/attempt.ts'
import type { EmitSession } from '../delivering/emit-session.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { blameOf } from '../errors.ts'
import { errFields } from '../thrown.ts'

const FIRST_PAUSE_MS = 50
const LONGEST_PAUSE_MS = 5_000

/**
 * Prepares what is to be written once an activity has run. A store of the user's own may be down for a while: the
 * activity is not run again for that, nor does it hold up others. What is refused for good fails at once.
 *
 * @throws the last failure when it has taken too long, or the attempt has been told to end
 */
export async function writtenDown(
  {
    attempt,
    session,
    core: { clock, logger },
    asideMs,
  }: {
    readonly attempt: Attempt
    readonly session: EmitSession
    readonly core: OutboxCore
    readonly asideMs: number
  },
  prepare: () => void | Promise<void>,
): Promise<void> {
  const giveUpAt = clock.elapsed() + asideMs
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    try {
      return await prepare()
    } catch (error) {
      const over = attempt.abortReason !== undefined || clock.elapsed() + pause > giveUpAt
      if (blameOf(error) === 'event' || over) throw error
      logger.warn({ ...attempt.logFields, ...errFields(error) }, 'a step’s outcome is set aside, will repeat')
    }
    attempt.onWaiting?.()
    const { promise: paused, resolve } = Promise.withResolvers<void>()
    const cancel = clock.after(pause, resolve)
    await attempt.attend(paused).finally(cancel)
    session.restart()
  }
}
