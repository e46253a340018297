import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { ChainableCommander, Redis } from 'ioredis'
import { type Outcome, UnsupportedBackendError } from 'outbox-core'
import { recordingLogger, takeDue } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { RedisIoredisOutbox } from '../src/index.ts'
import { connect, event, everything, opened, url } from './open.ts'
import { rightsFor } from './rights.ts'

const NOTHING = { append: [], put: [], remove: [] }
const users: string[] = []
afterAll(async () => {
  if (users.length > 0) await connect().call('ACL', 'DELUSER', ...users)
})

/** A client of a user who has just these rights. */
async function clientWith(rights: readonly string[]): Promise<Redis> {
  const username = `u${randomUUID()}`
  users.push(username)
  await connect().call('ACL', 'SETUSER', username, 'reset', 'on', '>secret', ...rights)
  return connect(url, { username, password: 'secret', enableReadyCheck: false })
}

/** An outbox with events of every state and a payload. */
async function filled() {
  const place = await opened()
  const { storage } = place
  await storage.write([{ ...NOTHING, append: [event('done'), event('old'), event('dead')] }])
  await storage.write([{ ...NOTHING, append: [keyed('first'), keyed('second'), keyed('third')] }])
  await takeDue(storage, 4, 60_000)
  const held = (id: string) => ({ id, attempt: 1 })
  await storage.write([
    { ...NOTHING, settle: { kind: 'complete', ...held('done'), keepMs: 60_000 } },
    { ...NOTHING, settle: { kind: 'complete', ...held('old'), keepMs: -1 } },
    { ...NOTHING, settle: { kind: 'bury', ...held('dead'), error: 'x' } },
    { ...NOTHING, append: [event('a'), event('b'), event('c')], put: [payload('claim')] },
  ])
  await takeDue(storage, 2, 60_000)
  return place
}

function keyed(id: string, more = {}) {
  return event(id, { key: 'k', address: 'a#k', ...more })
}

function payload(id: string) {
  return { id, data: Uint8Array.of(1), expires: { inMs: 60_000 } }
}

const TAKING = { take: { id: 'third', leaseMs: 60_000 } }

/** Every way to change what is stored. */
const CHANGES: Record<string, (storage: Storage) => Promise<unknown>> = {
  append: (storage) => storage.write([{ ...NOTHING, append: [event('new'), event('newer')] }]),
  'append and put': (storage) => storage.write([{ ...NOTHING, append: [event('new')], put: [payload('p')] }]),
  'append a named one': (storage) =>
    storage.write([{ ...NOTHING, append: [event('new', { fingerprint: 'f' })], put: [payload('p')] }]),
  put: (storage) => storage.write([{ ...NOTHING, put: [payload('p')] }]),
  remove: (storage) => storage.write([{ ...NOTHING, remove: ['claim'] }]),
  lease: (storage) => takeDue(storage, 9, 60_000),
  extend: (storage) => storage.extend([held('a'), held('b')], 60_000),
  keep: (storage) => storage.keep('done', 90_000),
  purge: (storage) => storage.purge(9),
  'a step of a saga': (storage) =>
    storage.write([
      step({ kind: 'complete', ...held('a'), keepMs: 0 }),
      { ...step({ kind: 'complete', ...held('b'), keepMs: 9_000 }), append: [event('next')], remove: [] },
    ]),
  'retry and bury': (storage) =>
    storage.write([
      { ...NOTHING, settle: { kind: 'retry', ...held('a'), delayMs: 9_000, error: 'x', counted: false } },
      { ...NOTHING, settle: { kind: 'bury', ...held('b'), error: 'x' } },
    ]),
  'append to a key': (storage) => storage.write([{ ...NOTHING, append: [keyed('new'), keyed('newer')] }]),
  'append a named one to a key': (storage) =>
    storage.write([{ ...NOTHING, append: [keyed('new', { fingerprint: 'f' })] }]),
  'complete one that others wait for': (storage) =>
    storage.write([{ ...NOTHING, settle: { kind: 'complete', ...held('first'), keepMs: 0 } }]),
  'complete several of a key': (storage) =>
    storage.write([
      {
        ...NOTHING,
        settle: { kind: 'complete', ...held('first'), keepMs: 9_000, also: ['second'], ...TAKING },
      },
    ]),
  'complete several of a key at once': (storage) =>
    storage.write([
      { ...NOTHING, settle: { kind: 'complete', ...held('first'), keepMs: 0, also: ['second'], ...TAKING } },
    ]),
  'skip one that others wait for': (storage) =>
    storage.write([{ ...NOTHING, settle: { kind: 'bury', ...held('first'), error: 'x', skip: true } }]),
  'a step in its place': (storage) =>
    storage.write([
      {
        ...step({ kind: 'complete', ...held('first'), keepMs: 0 }),
        append: [keyed('here', { inPlace: true }), keyed('there', { inPlace: true })],
      },
    ]),
  'the last of an address': (storage) =>
    storage.write([
      { ...NOTHING, settle: { kind: 'complete', ...held('a'), keepMs: 0 } },
      { ...NOTHING, settle: { kind: 'complete', ...held('b'), keepMs: 9_000 } },
    ]),
  revive: (storage) => storage.write([{ ...NOTHING, settle: { kind: 'revive', ...held('dead') } }]),
  discard: (storage) => storage.write([{ ...NOTHING, settle: { kind: 'discard', ...held('dead') } }]),
}

type Storage = RedisIoredisOutbox<ChainableCommander>['storage']

function held(id: string) {
  return { id, attempt: 1 }
}

function step(settle: NonNullable<Outcome['settle']>): Outcome {
  return { settle, append: [event('later', { leased: true })], put: [payload('p')], remove: ['claim'] }
}

async function isRedis7(): Promise<boolean> {
  return !/^redis_version:6/m.test(await connect().info('server'))
}

describe.skipIf(url === undefined)('The rights of a Redis user', () => {
  test('are those that the README gives, and what is said when they are missing gives the same', async () => {
    const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
    expect(readme).toContain(rightsFor('shop').join(' '))
  })

  test('initialize names what is missing, all at once, and what to run', async ({ skip }) => {
    if (!(await isRedis7())) skip()
    const prefix = `t${randomUUID().replaceAll('-', '')}`
    const initialize = async (rights: readonly string[]): Promise<string[]> => {
      const logger = recordingLogger()
      const options = { prefix, logger, notify: true }
      await new RedisIoredisOutbox<ChainableCommander>(await clientWith(rights), options).initialize()
      return logger.lines.map(({ message }) => message)
    }
    const all = rightsFor(prefix)
    expect(await initialize(all)).toEqual([])
    expect(await initialize(all.filter((right) => !right.startsWith('&')))).toEqual([
      expect.stringContaining(`&{${prefix}}:wake`),
    ])
    for (const right of all.filter((one) => one.startsWith('+') && !/publish|subscribe|info/.test(one))) {
      const failing = initialize(all.filter((other) => other !== right))
      await expect(failing).rejects.toThrow(UnsupportedBackendError)
      // Of TIME, which every script begins with, Redis says only that something is missing.
      const named = right === '+time' ? 'this command' : `\\b${right.slice(1)}\\b`
      await expect(failing).rejects.toThrow(new RegExp(`${named}.*ACL SETUSER`, 'i'))
      await expect(failing).rejects.toThrow(all.join(' '))
    }
    const few = all.filter((right) => !['+hset', '+zrem'].includes(right))
    await expect(initialize(few)).rejects.toThrow(/ZREM on .*HSET on /)
    const narrow = [`~{${prefix}}:event:*`, `~{${prefix}}:`, `~{${prefix}}:-`, ...all.slice(1)]
    await expect(initialize(narrow)).rejects.toThrow(/ZADD on \{\w+\}:due:.*SET on \{\w+\}:saga:/)
    expect(await connect().keys(`{${prefix}}:*`)).toEqual([`{${prefix}}:version`])
  })

  test.each(Object.entries(CHANGES))(
    '%s: whatever is missing in the middle, nothing of it is written',
    async (_name, change) => {
      if (!(await isRedis7())) return
      const { redis, prefix, key } = await filled()
      const all = rightsFor(prefix)
      const sets = [
        ...['due:*', 'leased:*', 'addresses', 'blocked', 'done', 'dead'],
        ...['key:*', 'event:*', 'saga:*', 'lease:*'],
      ]
      const keys = [...sets, '', '-'].map((name) => `~${key(name)}`)
      const withoutCommand = ['zadd', 'zrem', 'hset', 'del', 'set'].map((name) => [...all, `-${name}`])
      const withoutKeys = sets.map((name) => [
        ...all.filter((right) => !right.startsWith('~')),
        ...keys.filter((pattern) => pattern !== `~${key(name)}`),
      ])
      const before = await everything(redis, prefix)
      let refused = 0
      for (const rights of [...withoutCommand, ...withoutKeys]) {
        const options = { prefix, logger: false } as const
        const { storage } = new RedisIoredisOutbox<ChainableCommander>(await clientWith(rights), options)
        const error = await change(storage).then(
          () => undefined,
          (thrown: Error) => thrown,
        )
        if (error === undefined) {
          // It needs nothing of what is missing; others shall find the same again.
          await restore(redis, prefix, before)
          continue
        }
        refused++
        expect(error).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false, blame: 'environment' })
        expect(error.message).toMatch(/(NOPERM|user executing the script).*initialize\(\)/)
        expect(await everything(redis, prefix), error.message).toEqual(before)
      }
      expect(refused).toBeGreaterThan(0)
    },
  )
})

async function restore(redis: Redis, prefix: string, contents: Record<string, string>): Promise<void> {
  const names = Object.keys(await everything(redis, prefix))
  if (names.length > 0) await redis.del(names)
  for (const [name, dump] of Object.entries(contents))
    await redis.restore(name, 0, Buffer.from(dump, 'base64'))
}
