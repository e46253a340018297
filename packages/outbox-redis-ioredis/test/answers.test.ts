import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type ChainableCommander, Redis, ReplyError } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { OutboxEventBus } from 'outbox-core'
import { recordingLogger, takeDue, until } from 'outbox-core/testing'
import { afterEach, describe, expect, test } from 'vitest'
import { type OwnServer, startOwnServer } from '../../../test/servers/index.ts'
import { freePort } from '../../../test/servers/process.ts'
import { redisError, redisWriteError } from '../src/errors.ts'
import { RedisIoredisOutbox } from '../src/index.ts'
import { closedAfterwards, connect, event, everything, opened } from './open.ts'

const PASSING = { code: 'OUTBOX_STORAGE', transient: true, blame: 'environment' }
const REFUSED = { code: 'OUTBOX_STORAGE', transient: false, blame: 'event' }
const NEITHER = { code: 'OUTBOX_STORAGE', transient: false, blame: 'environment' }
const SIX = 'ERR Error running script (call to f_0): @user_script:12:'
const NOTHING = { append: [], put: [], remove: [] }

const servers: OwnServer[] = []
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.kill()))
})

async function ownServer() {
  const server = await startOwnServer('redis')
  if (server) servers.push(server)
  return server
}

describe('What a server answers', { timeout: 60_000 }, () => {
  test.for([
    ['ioredis 6', Redis],
    ['ioredis 5', Redis5 as unknown as typeof Redis],
  ] as const)('%s: a value that is longer than the server takes is refused', async ([, Client], { skip }) => {
    const url = (await ownServer())?.url ?? skip()
    const { prefix, redis, outbox, storage, key } = await opened(closedAfterwards(new Client(url)))
    await redis.config('SET', 'proto-max-bulk-len', '1mb')
    // Little enough to be read before the server hangs up.
    const text = 'x'.repeat(1_100_000)
    const longer = { ...NOTHING, append: [event('long', { body: text })] }
    const put = [{ id: 'claim', data: Buffer.from(text), expires: { inMs: 60_000 } }]
    await expect(refusalOf(() => storage.write([longer]))).resolves.toMatchObject(REFUSED)
    await expect(refusalOf(() => storage.write([{ ...NOTHING, put }]))).resolves.toMatchObject(REFUSED)
    const inMulti = () =>
      outbox.transaction(async (multi) => {
        multi.set(key('row'), '1')
        await storage.write([longer], multi)
      })
    await expect(refusalOf(inMulti)).resolves.toMatchObject(REFUSED)
    expect(await everything(redis, prefix)).toEqual({})
    expect(await storage.write([{ ...NOTHING, append: [event('short')] }])).toEqual([{ status: 'applied' }])
  })

  test('a long script, replicas that are missing and a disk that is full pass', async ({ skip }) => {
    const redis = connect((await ownServer())?.url ?? skip())
    const { outbox, storage, bus } = await opened(redis)
    const refusesAll = async (reply: string): Promise<void> => {
      const failure = { ...PASSING, message: expect.stringContaining(reply) }
      await expect(bus.emit('a', {})).rejects.toMatchObject(failure)
      await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toMatchObject(failure)
      await expect(outbox.sagaStore('1h').put('p', new Uint8Array(1))).rejects.toMatchObject(failure)
    }
    await redis.config('SET', 'min-replicas-to-write', '1')
    await refusesAll('NOREPLICAS')
    await redis.config('SET', 'min-replicas-to-write', '0')

    const [, folder = ''] = (await redis.config('GET', 'dir')) as string[]
    const inTheWay = join(folder, 'dump.rdb')
    await rm(inTheWay, { force: true })
    await mkdir(join(inTheWay, 'folder'), { recursive: true })
    await redis.config('SET', 'save', '3600 1000000')
    await redis.bgsave()
    await until(async () => (await redis.info('persistence')).includes('last_bgsave_status:err'))
    await refusesAll('MISCONF')
    await redis.config('SET', 'save', '')

    await redis.config('SET', 'lua-time-limit', '20')
    const other = connect(`redis://127.0.0.1:${redis.options.port}`)
    const looping = expect(other.eval('while true do end', 0)).rejects.toThrow(/killed/)
    await until(() =>
      storage.stats().then(
        () => false,
        (error: Error) => /BUSY/.test(error.message),
      ),
    )
    await refusesAll('BUSY')
    await redis.script('KILL')
    await looping
    await bus.emit('a', {})
  })

  test('who may not publish emits all the same, and is told so', async ({ skip }) => {
    const { url } = (await ownServer()) ?? skip()
    const rules = ['on', '>secret', '~{mine}:*', 'resetchannels', '+@all']
    await connect(url).call('ACL', 'SETUSER', 'app', ...rules)
    const redis = connect(url, { username: 'app', password: 'secret' })
    const logger = recordingLogger()
    const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix: 'mine', logger, notify: true })
    await outbox.initialize()
    const warnings = logger.lines.filter(({ level }) => level === 'warn').map(({ message }) => message)
    expect(warnings).toEqual([expect.stringContaining('&{mine}:wake')])
    const bus = new OutboxEventBus(outbox)
    await bus.emit('a', {})
    await bus.emit('a', {}, { id: 'named' })
    const announced = outbox.storage.write([{ ...NOTHING, append: [event('x')] }], undefined, {
      announce: true,
    })
    expect(await announced).toEqual([{ status: 'applied' }])
    expect(await outbox.stats()).toMatchObject({ due: 3 })
    await expect(outbox.storage.announce?.()).rejects.toMatchObject(NEITHER)
  })

  test('an event that a user may not read is neither gone nor at fault', async ({ skip }) => {
    const { url } = (await ownServer()) ?? skip()
    const admin = connect(url)
    const { storage, bus, key } = await opened(connect(url))
    const id = await bus.emit('a', {})
    for (const command of ['hmget', 'hexists', 'hget']) {
      await admin.call('ACL', 'SETUSER', 'default', `-${command}`)
      const uses = {
        hmget: () => takeDue(storage, 1, 1_000),
        hexists: () => storage.write([{ ...NOTHING, append: [event(id)] }]),
        hget: () => storage.write([{ ...NOTHING, append: [event(id, { fingerprint: 'one' })] }]),
      }
      await expect(uses[command as keyof typeof uses]()).rejects.toMatchObject(NEITHER)
      await admin.call('ACL', 'SETUSER', 'default', '+@all')
    }
    expect(await admin.zrange(key('due:a'), '0', '-1')).toEqual([id])
    expect(await takeDue(storage, 1, 1_000)).toMatchObject([{ id, attempt: 1 }])
  })

  test.each([
    ['CLUSTERDOWN Hash slot not served', PASSING],
    ['TRYAGAIN Multiple keys request during rehashing of slot', PASSING],
    ["MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", PASSING],
    ['ERR max number of clients reached', PASSING],
    ['NOAUTH Authentication required.', NEITHER],
    ['NOPERM this user has no permissions to access one of the keys used as arguments', NEITHER],
    ['NOSCRIPT No matching script. Please use EVAL.', NEITHER],
    ["CROSSSLOT Keys in request don't hash to the same slot", NEITHER],
    ['ERR string exceeds maximum allowed size (proto-max-bulk-len)', REFUSED],
    ['ERR value is not an integer or out of range', REFUSED],
    [`ERR invalid expire time in 'set' command script: ${'0'.repeat(40)}, on @user_script:12.`, REFUSED],
    // Redis 6.2
    [`${SIX} ERR value is not a valid float`, REFUSED],
    [`${SIX} @user_script: 12: -OOM command not allowed when used memory > 'maxmemory'.`, PASSING],
    [`${SIX} Script killed by user with SCRIPT KILL...`, PASSING],
    [`${SIX} @user_script: 12: The user executing the script can't run this command or subcommand`, NEITHER],
    // What a reply names may look like anything.
    ['WRONGTYPE {p}:event:ECONNRESET connection is closed holds something else', REFUSED],
    ['WRONGTYPE {p}:due:ECONNRESET connection is closed holds a string', NEITHER],
    ['WRONGTYPE {p}:event:@user_script:1: OOM holds something else', REFUSED],
  ])('%s', (reply, expected) => {
    for (const classified of [redisError, redisWriteError]) {
      expect(classified(new ReplyError(reply))).toMatchObject(expected)
    }
  })
})

describe('What ioredis says by itself', () => {
  test.each([
    ['ioredis 6', Redis],
    ['ioredis 5', Redis5 as unknown as typeof Redis],
  ] as const)('%s: a server that is not there is a passing failure of any read', async (_name, Client) => {
    const client = new Client(await freePort(), '127.0.0.1', { maxRetriesPerRequest: 0 })
    const outbox = new RedisIoredisOutbox<ChainableCommander>(closedAfterwards(client), { logger: false })
    const failed = await outbox.storage.stats().then(
      () => undefined,
      (error: Error) => error,
    )
    expect(failed).toMatchObject({ ...PASSING, cause: { name: 'MaxRetriesPerRequestError' } })
  })

  test('a command that its encoder refuses was not sent', () => {
    const thrown: unknown[] = []
    for (const encode of [
      () => Buffer.from(undefined as never),
      () => Buffer.alloc(-1),
      () => 'x'.repeat(2 ** 29).concat('x'.repeat(2 ** 29)),
    ]) {
      try {
        encode()
      } catch (error) {
        thrown.push(error)
      }
    }
    expect(thrown).toHaveLength(3)
    for (const error of thrown) expect(redisWriteError(error)).toMatchObject(REFUSED)
  })

  test('what nobody has foreseen is neither', () => {
    expect(redisWriteError(new TypeError("Cannot read properties of null (reading 'write')"))).toMatchObject(
      NEITHER,
    )
    expect(redisWriteError(new Error('Connection in subscriber mode'))).toMatchObject(NEITHER)
  })
})

/** The error of a call; once more when the server hung up before its answer was read. */
async function refusalOf(call: () => Promise<unknown>): Promise<unknown> {
  for (let times = 0; ; times++) {
    const error = await call().then(
      () => undefined,
      (thrown: { readonly code?: unknown }) => thrown,
    )
    if (error?.code !== 'OUTBOX_UNKNOWN_OUTCOME' || times === 20) return error
  }
}
