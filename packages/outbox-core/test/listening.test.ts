import { StorageError } from 'outbox-core'
import { ManualClock, recordingLogger } from 'outbox-core/testing'
import { expect, test } from 'vitest'
import { Listening } from '../src/delivering/listening.ts'

function listeningOn(failures: readonly boolean[]) {
  const clock = new ManualClock()
  const logger = recordingLogger()
  const counts = { asked: 0, ended: 0, woken: 0 }
  const told: ((error: Error) => void)[] = []
  const listen = async (_: () => void, lost: (error: Error) => void = () => {}) => {
    const transient = failures[counts.asked++]
    if (transient !== undefined) throw new StorageError('away', { transient })
    told.push(lost)
    return async () => void counts.ended++
  }
  const listening = new Listening({ storage: { listen }, clock, logger }, 1_000, () => counts.woken++)
  const lose = (transient: boolean) => told.at(-1)?.(new StorageError('gone', { transient }))
  return { listening, clock, logger, counts, lose, told }
}

test('a subscription that is lost is made again, ever less often while that fails, and says so once', async () => {
  const { listening, clock, logger, counts, lose } = listeningOn([...Array.from({ length: 9 }, () => true)])
  await listening.start()
  const asked: number[] = []
  for (let second = 0; second < 125; second++) {
    await clock.advance(1_000)
    asked.push(counts.asked)
  }
  expect([asked[0], asked[3], asked[7], asked[31], asked[61], asked.at(-1)]).toEqual([2, 4, 5, 7, 8, 10])
  expect(counts.woken).toBe(1)
  lose(true)
  await clock.advance(500)
  expect(counts).toEqual({ asked: 11, ended: 0, woken: 2 })
  expect(logger.lines.map(({ level }) => level)).toEqual(['warn', 'info', 'warn', 'info'])
})

test('one that will not come back is not asked for again', async () => {
  const { listening, clock, logger, counts, lose } = listeningOn([])
  await listening.start()
  lose(false)
  lose(true)
  await clock.advance(3_600_000)
  expect(counts).toEqual({ asked: 1, ended: 0, woken: 0 })
  expect(logger.lines).toHaveLength(1)
})

test('after its end nothing is asked for and nothing is said', async () => {
  const { listening, clock, logger, counts, lose } = listeningOn([true])
  await listening.start()
  await listening.stop()
  await clock.advance(3_600_000)
  const other = listeningOn([])
  await other.listening.start()
  await other.listening.stop()
  other.lose(true)
  await other.clock.advance(3_600_000)
  lose(true)
  expect([counts, other.counts]).toEqual([
    { asked: 1, ended: 0, woken: 0 },
    { asked: 1, ended: 1, woken: 0 },
  ])
  expect([logger.lines.length, other.logger.lines.length]).toEqual([1, 0])
})
