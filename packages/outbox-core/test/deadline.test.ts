import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { answeredWithin, Unanswered } from '../src/delivering/deadline.ts'
import { UnansweredError } from '../src/index.ts'
import { ManualClock } from '../src/testing/index.ts'

/** A call that is answered when told to, and what was heard of it. */
function asking(ms: number) {
  const clock = new ManualClock()
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const heard: unknown[] = []
  void answeredWithin(
    clock,
    ms,
    () => promise,
    (answer) => heard.push(`late ${answer}`),
  ).then(
    (answer) => heard.push(answer),
    (error: unknown) => heard.push(error),
  )
  return { clock, heard, resolve, reject }
}

test('an answer in time is the answer, and no timer is left', async () => {
  const { clock, heard, resolve } = asking(100)
  await clock.advance(99)
  resolve('yes')
  await setImmediate()
  expect(heard).toEqual(['yes'])
  await clock.advance(1_000)
  expect(heard).toEqual(['yes'])
})

test('a failure in time is the failure', async () => {
  const { clock, heard, reject } = asking(100)
  reject(new Error('no'))
  await clock.advance(1_000)
  expect(heard).toEqual([new Error('no')])
})

test('no answer is an error that says so, and a late answer is heard once', async () => {
  const { clock, heard, resolve } = asking(100)
  await clock.advance(100)
  expect(heard).toEqual([new UnansweredError(100)])
  expect(heard[0]).toMatchObject({ code: 'OUTBOX_UNANSWERED', message: expect.stringContaining('100 ms') })
  resolve('yes')
  await clock.advance(1_000)
  expect(heard.slice(1)).toEqual(['late yes'])
})

test('a late failure is no news, and no unhandled rejection', async () => {
  const { clock, heard, reject } = asking(100)
  await clock.advance(100)
  reject(new Error('no'))
  await clock.advance(1_000)
  expect(heard).toHaveLength(1)
})

test('a call that throws before it returns a promise is a failure', async () => {
  const asked = answeredWithin(new ManualClock(), 100, () => {
    throw new Error('at once')
  })
  await expect(asked).rejects.toThrow('at once')
})

test('unanswered calls are counted until they are answered, or hope is given up', async () => {
  const clock = new ManualClock()
  const unanswered = new Unanswered(clock, 1_000)
  const [answered, failed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  void unanswered.count(answered.promise)
  unanswered.count(failed.promise).catch(() => {})
  expect(unanswered.any).toBe(true)
  answered.resolve()
  failed.reject(new Error('no'))
  await setImmediate()
  expect(unanswered.any).toBe(false)
  void unanswered.count(new Promise(() => {}))
  await clock.advance(999)
  expect(unanswered.any).toBe(true)
  await clock.advance(1)
  expect(unanswered.any).toBe(false)
})
