import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Watch } from '../src/emitting/watched.ts'

/** A watch, what came too late for it, and a promise of it that fails when told to. */
function watching() {
  const late: unknown[] = []
  const watch = new Watch((error) => late.push(error))
  const failing = () => {
    const { promise, reject } = Promise.withResolvers<string>()
    return { promise: watch.over(promise), fail: () => reject(new Error('no')) }
  }
  return { watch, late, failing }
}

const rethrow = (error: unknown): never => {
  throw error
}

test.each<[string, (promise: Promise<string>) => unknown]>([
  ['awaited', async (promise) => void (await promise.catch(() => {}))],
  ['awaited in a try', (promise) => tried(promise)],
  ['caught', (promise) => promise.catch(() => {})],
  ['handled by then', (promise) => promise.then(undefined, () => {})],
  ['caught after a then', (promise) => promise.then(String).catch(() => {})],
  ['caught after a finally', (promise) => promise.finally(() => {}).catch(() => {})],
  ['awaited after a then', (promise) => tried(promise.then(String))],
  ['all settled', (promise) => Promise.allSettled([promise])],
  ['among all', (promise) => Promise.all([promise]).catch(() => {})],
  ['any of it', (promise) => Promise.any([promise]).catch(() => {})],
  ['in another promise', (promise) => tried(Promise.resolve(promise).then(String))],
  ['resolved with', (promise) => tried(new Promise((resolve) => resolve(promise)))],
  ['returned by an async function', (promise) => tried((async () => promise)())],
])('a failure that is %s has somebody who takes charge of it', async (_, take) => {
  const { watch, late, failing } = watching()
  const { promise, fail } = failing()
  void take(promise)
  fail()
  await watch.passedOn()
  await setImmediate()
  expect(watch.unattended).toBeUndefined()
  watch.close()
  await setImmediate()
  expect(late).toEqual([])
})

test.each<[string, (promise: Promise<string>) => unknown]>([
  ['forgotten', () => {}],
  ['gone on from by then', (promise) => promise.then(String)],
  ['gone on from by then, and null', (promise) => promise.then(String, null)],
  ['gone on from by finally', (promise) => promise.finally(() => {})],
  [
    'gone on from in two ways, one of them caught',
    (promise) => {
      promise.catch(() => {})
      promise.then(String)
    },
  ],
  [
    'gone on from many times',
    (promise) =>
      promise
        .then(String)
        .finally(() => {})
        .then(Number)
        .then(String),
  ],
])('a failure that is %s has nobody', async (_, leave) => {
  const { watch, failing } = watching()
  const { promise, fail } = failing()
  void leave(promise)
  fail()
  // As whoever closes a watch does, once the work itself is over.
  await Promise.resolve()
  await Promise.resolve()
  await watch.passedOn()
  expect(watch.unattended).toEqual({ taken: false, error: new Error('no') })
})

test('a failure that somebody takes charge of later, before it matters, has somebody', async () => {
  const { watch, failing } = watching()
  const { promise, fail } = failing()
  fail()
  await setImmediate()
  expect(watch.unattended).toBeDefined()
  await expect(promise).rejects.toThrow('no')
  expect(watch.unattended).toBeUndefined()
})

test('what comes after the close is told to nobody but who asked for it', async () => {
  const { watch, late, failing } = watching()
  const [forgotten, goneOnFrom, caught] = [failing(), failing(), failing()]
  void goneOnFrom.promise.then(String)
  void caught.promise.catch(() => {})
  watch.close()
  for (const { fail } of [forgotten, goneOnFrom, caught]) fail()
  await setImmediate()
  await setImmediate()
  expect(late).toEqual([new Error('no'), new Error('no')])
  expect(watch.unattended).toBeUndefined()
})

test('it is a promise like any other', async () => {
  const { watch } = watching()
  const promise = watch.over(Promise.resolve('done'))
  expect(promise).toBeInstanceOf(Promise)
  expect(await promise).toBe('done')
  expect(await promise.then((text) => `${text}!`)).toBe('done!')
  expect(await promise.finally(() => 'ignored')).toBe('done')
  expect(await Promise.race([promise, setImmediate()])).toBe('done')
  const failed = watch.over(Promise.reject(new Error('no')))
  await expect(failed.then(undefined, rethrow)).rejects.toThrow('no')
  await expect(failed.catch(rethrow)).rejects.toThrow('no')
  await expect(failed.finally(() => rethrow(new Error('worse')))).rejects.toThrow('worse')
})

async function tried(promise: Promise<unknown>): Promise<void> {
  try {
    await promise
  } catch {}
}
