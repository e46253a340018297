import { expect, test } from 'vitest'
import { TransactionContext } from '../src/emitting/transaction-context.ts'

/** A context, operations in it that end when told to, and what happened in order. */
function observed() {
  const context = new TransactionContext('tx', {})
  const log: string[] = []
  const operation = (name: string) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const run = async (): Promise<void> => {
      log.push(`${name} begins`)
      await promise
      log.push(`${name} ends`)
    }
    return { run, end: resolve }
  }
  return { context, log, operation }
}

/** Lets every promise that can settle do so. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('operations run one after the other, as a driver’s connection needs it', async () => {
  const { context, log, operation } = observed()
  const [first, second] = [operation('first'), operation('second')]
  const both = [context.run(first.run), context.run(second.run)]
  await settled()
  expect(log).toEqual(['first begins'])
  second.end()
  first.end()
  await Promise.all(both)
  expect(log).toEqual(['first begins', 'first ends', 'second begins', 'second ends'])
})

test('a transaction that fails ends only when what it started has ended', async () => {
  const { context, log, operation } = observed()
  const slow = operation('slow')
  const failing = context
    .complete(async () => {
      void context.run(slow.run)
      await settled()
      throw new Error('no')
    })
    .catch((error: Error) => log.push(error.message))
  await settled()
  await settled()
  expect(log).toEqual(['slow begins'])
  slow.end()
  await failing
  expect(log).toEqual(['slow begins', 'slow ends', 'no'])
})
