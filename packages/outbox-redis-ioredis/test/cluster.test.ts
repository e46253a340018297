import { type ChainableCommander, Cluster, Redis } from 'ioredis'
import { activity, OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import { expect, test } from 'vitest'
import { startRedisCluster } from '../../../test/servers/redis.ts'
import { RedisIoredisOutbox } from '../src/index.ts'

test('everything works on a cluster of three nodes, in one slot', { timeout: 60_000 }, async ({ skip }) => {
  const cluster = await startRedisCluster()
  if (!cluster) return skip()
  const client = new Cluster(cluster.ports.map((port) => ({ host: '127.0.0.1', port })))
  const outbox = new RedisIoredisOutbox<ChainableCommander>(client, { prefix: 'cluster_test', logger: false })
  const bus = new OutboxEventBus<SagaEvents>(outbox)
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
  try {
    await outbox.initialize()
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
    const keys = await Promise.all(
      cluster.ports.map(async (port) => {
        const node = new Redis(port, '127.0.0.1')
        const found = await node.keys('*')
        node.disconnect()
        return found
      }),
    )
    expect(keys.flat()).toEqual(['{cluster_test}:order'])
  } finally {
    client.disconnect()
    await cluster.stop()
  }
})
