import { type ChainableCommander, Cluster, Redis } from 'ioredis'
import { activity, OutboxEventBus, type Outcome, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { outboxContract, takeDue, until } from 'outbox-core/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { onPath } from '../../../test/servers/process.ts'
import { type RedisCluster, startRedisCluster } from '../../../test/servers/redis.ts'
import { RedisIoredisOutbox } from '../src/index.ts'
import { redisBackend } from './backend.ts'
import { closedAfterwards, event, isNote } from './open.ts'

let cluster: RedisCluster | undefined
beforeAll(async () => {
  cluster = await startRedisCluster()
})
afterAll(() => cluster?.stop())

function connect(options = {}): Cluster {
  const nodes = (cluster?.ports ?? []).map((port) => ({ host: '127.0.0.1', port }))
  return new Cluster(nodes, { redisOptions: options })
}

async function opened(prefix: string) {
  const client = closedAfterwards(connect() as unknown as Redis) as unknown as Cluster
  const outbox = new RedisIoredisOutbox<ChainableCommander>(client, { prefix, logger: false })
  await outbox.initialize()
  return { client, outbox, bus: new OutboxEventBus<SagaEvents>(outbox) }
}

/** A client of the node on that port alone. */
function node(index: number): Redis {
  return closedAfterwards(new Redis(cluster?.ports[index] ?? 0, '127.0.0.1'))
}

describe.skipIf(onPath('redis-server') === undefined)('a cluster of three masters', () => {
  outboxContract(redisBackend({ name: 'Cluster of ioredis 6', connect }))

  test('a saga runs and is undone, all of it in one slot', async () => {
    const { client, outbox, bus } = await opened('cluster_test')
    const undone: number[] = []
    const step = activity('step', {
      execute({ n }: { n: number }) {
        if (n === 3) throw new Error('three')
        return { log: n }
      },
      compensate(n) {
        undone.push(n)
      },
      retry: { maxAttempts: 1 },
    })
    const engine = new SagaEngine({ bus, store: outbox.sagaStore('1h'), activities: [step] })
    bus.on('saga.compensated', () => {})
    await bus.start()
    const slip = routingSlip('test').variables({ pad: 'x'.repeat(20_000) })
    await Promise.all([
      bus.waitFor('saga.compensated', { timeout: '20s' }),
      outbox.transaction(async (multi) => {
        multi.set('{cluster_test}:order', 'placed')
        await engine.emit(slip.add(step, { n: 1 }).add(step, { n: 2 }).add(step, { n: 3 }))
      }),
    ])
    await bus.stop()
    expect(undone).toEqual([2, 1])
    expect(await client.get('{cluster_test}:order')).toBe('placed')
    const keys = await Promise.all([0, 1, 2].map((index) => node(index).keys('*cluster_test*')))
    expect(keys.flat().filter((name) => !isNote(name))).toEqual(['{cluster_test}:order'])
  })

  test('keys of the user’s own in another slot are refused before anything is written', async () => {
    const { client, outbox, bus } = await opened('slots_test')
    // Slots of other nodes and of the same one: ioredis refuses the first, Redis the second.
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']) {
      const failing = outbox.transaction(async (multi) => {
        multi.set(name, 'x')
        await bus.emit('saga.completed', {} as never)
      })
      await expect(failing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
      expect(await client.exists(name)).toBe(0)
    }
    expect(await outbox.stats()).toMatchObject({ due: 0 })
  })

  test('payloads are read where they were written, whatever the client’s scaleReads', async () => {
    const replica = node(3)
    const known = async () => ((await replica.cluster('NODES')) as string).split('\n')
    const master = (await known()).find((line) => line.includes('myself'))?.split(' ')[3] ?? 'none'
    const [from = 0, to = -1] = ((await known()).find((line) => line.startsWith(master))?.split(' ')[8] ?? '')
      .split('-')
      .map(Number)
    const slotOf = (prefix: string) => replica.cluster('KEYSLOT', `{${prefix}}:`)
    let prefix = ''
    for (let n = 0, slot = -1; slot < from || slot > to; n++) {
      prefix = `reads_${n}`
      slot = Number(await slotOf(prefix))
    }
    const nodes = (cluster?.ports ?? []).map((port) => ({ host: '127.0.0.1', port }))
    const client = new Cluster(nodes, { scaleReads: 'slave' })
    closedAfterwards(client as unknown as Redis)
    await until(() => client.nodes('slave').length === 1)
    const { storage } = new RedisIoredisOutbox<ChainableCommander>(client, { prefix, logger: false })
    await replica.config('RESETSTAT')
    for (let n = 0; n < 20; n++) {
      const put = [{ id: `${n}`, data: Uint8Array.of(n), expires: { inMs: 60_000 } }]
      await storage.write([{ append: [], put, remove: [] }])
      expect([...((await storage.getPayload(`${n}`)) ?? [])]).toEqual([n])
    }
    expect(await replica.info('commandstats')).not.toMatch(/cmdstat_get(ex)?:/)
  })

  test('emitters and workers follow a slot that moves and a master that is replaced', async () => {
    const { client, outbox, bus } = await opened('moved_test')
    const handled: number[] = []
    bus.on('saga.completed', ({ payload }) => void handled.push(payload as unknown as number))
    await bus.start()
    let emitted = 0
    let inMulti = 0
    const emits = async (count: number): Promise<void> => {
      for (const end = emitted + count; emitted < end; emitted++) {
        await outbox.transaction(async (multi) => {
          multi.incr('{moved_test}:count')
          inMulti++
          await bus.emit('saga.completed', emitted as never)
        })
        await bus.emit('saga.completed', ++emitted as never)
      }
    }
    await emits(10)
    const impatient = new Cluster(
      (cluster?.ports ?? []).map((port) => ({ host: '127.0.0.1', port })),
      { maxRedirections: 1, retryDelayOnTryAgain: 1 },
    )
    closedAfterwards(impatient as unknown as Redis)
    const { storage } = new RedisIoredisOutbox<ChainableCommander>(impatient, { prefix: 'moved_test' })
    await storage.write([waiting('waits')])
    await moveSlot('{moved_test}:', async (target) => {
      // As long as keys of it are in two places, nothing is written in either.
      const passing = {
        code: 'OUTBOX_STORAGE',
        transient: true,
        message: expect.stringContaining('TRYAGAIN'),
      }
      await expect(storage.write([waiting('new')])).rejects.toMatchObject(passing)
      await expect(takeDue(storage, 1, 1_000)).rejects.toMatchObject(passing)
      expect(await target.keys('*moved_test*')).toEqual([])
    })
    expect(await client.zscore('{moved_test}:due:a', 'waits')).toBe('9000000000000')
    await emits(10)
    const replica = node(3)
    await replica.call('CLUSTER', 'FAILOVER')
    await until(async () => (await replica.role())[0] === 'master')
    await emits(10)
    await until(() => new Set(handled).size === emitted)
    await bus.stop()
    expect(Number(await client.get('{moved_test}:count'))).toBe(inMulti)
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
  })
})

/** An event that is due in a far future. */
function waiting(id: string): Outcome {
  return { append: [event(id, { due: { at: 9_000_000_000_000 } })], put: [], remove: [] }
}

/** Moves the slot of a key to the first master, as redis-cli does, while others go on. */
async function moveSlot(key: string, whileMoving: (target: Redis) => Promise<void>): Promise<void> {
  const masters = [node(0), node(1), node(2)]
  const slot = Number(await masters[0]?.cluster('KEYSLOT', key))
  const ids = (await Promise.all(masters.map((master) => master.call('CLUSTER', 'MYID')))) as string[]
  const from = Math.floor(slot / Math.ceil(16_384 / 3))
  const to = from === 0 ? 1 : 0
  const [source, target] = [masters[from], masters[to]]
  await target?.call('CLUSTER', 'SETSLOT', `${slot}`, 'IMPORTING', ids[from] ?? '')
  await source?.call('CLUSTER', 'SETSLOT', `${slot}`, 'MIGRATING', ids[to] ?? '')
  await whileMoving(target as Redis)
  const keys = (await source?.cluster('GETKEYSINSLOT', slot, 10_000)) ?? []
  const port = `${cluster?.ports[to]}`
  if (keys.length > 0) await source?.call('MIGRATE', '127.0.0.1', port, '', '0', '10000', 'KEYS', ...keys)
  for (const master of [target, source, ...masters]) {
    await master?.call('CLUSTER', 'SETSLOT', `${slot}`, 'NODE', ids[to] ?? '')
  }
}
