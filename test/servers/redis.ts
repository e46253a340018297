import { Redis } from 'ioredis'
import { startInDocker } from './docker.ts'
import { freePort, onPath, ServerProcess, temporaryFolder } from './process.ts'
import type { Server, Sources } from './server.ts'

export const redis: Sources = {
  variable: 'REDIS_URL',
  docker: () =>
    startInDocker({
      image: 'redis:7-alpine',
      port: 6379,
      command: ['redis-server', '--appendonly', 'yes', '--maxmemory-policy', 'noeviction'],
      url: (host, port) => `redis://${host}:${port}`,
    }),
  async local({ durable = false } = {}) {
    const binary = onPath('redis-server')
    return binary === undefined ? undefined : startRedis(binary, durable ? ['--appendfsync', 'always'] : [])
  },
  advice:
    'set REDIS_URL, start Docker, or install redis-server (apt-get install redis-server, brew install redis)',
}

async function startRedis(binary: string, more: readonly string[] = [], given?: number): Promise<Server> {
  const port = given ?? (await freePort())
  const server = new ServerProcess(
    binary,
    [
      '--port',
      `${port}`,
      '--bind',
      '127.0.0.1',
      '--dir',
      temporaryFolder('redis'),
      '--save',
      '',
      '--appendonly',
      'yes',
      ...more,
    ],
    () => ping(port),
  )
  await server.start()
  return {
    url: `redis://127.0.0.1:${port}`,
    source: binary,
    stop: () => server.end('SIGTERM'),
    kill: () => server.end('SIGKILL'),
    restart: () => server.start(),
  }
}

/** A cluster of three masters that share the slots, and a replica of the first one. */
export interface RedisCluster {
  /** The masters', then the replica's. */
  readonly ports: readonly number[]
  stop(): Promise<void>
}

const SLOTS = 16_384
const MASTERS = 3

/** A cluster of the caller's own; undefined when there is no redis-server on PATH. */
export async function startRedisCluster(): Promise<RedisCluster | undefined> {
  const binary = onPath('redis-server')
  if (binary === undefined) return undefined
  const ports: number[] = []
  while (ports.length <= MASTERS) ports.push(await freeClusterPort())
  const flags = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '5000']
  const nodes = await Promise.all(ports.map((port) => startRedis(binary, flags, port)))
  const clients = ports.map((port) => new Redis(port, '127.0.0.1'))
  const [first, ...others] = clients
  const replica = others.at(-1)
  if (!first || !replica) throw new Error('there are no nodes')
  const share = Math.ceil(SLOTS / MASTERS)
  for (const [index, client] of clients.slice(0, MASTERS).entries()) {
    const slots = Array.from({ length: share }, (_, slot) => index * share + slot)
    await client.cluster(
      'ADDSLOTS',
      slots.filter((slot) => slot < SLOTS),
    )
  }
  for (const client of others) await client.call('CLUSTER', 'MEET', '127.0.0.1', `${ports[0]}`)
  const master = (await first.call('CLUSTER', 'MYID')) as string
  await eventually(async () => (await replica.call('CLUSTER', 'REPLICATE', master)) === 'OK')
  await eventually(async () => (await replica.info('replication')).includes('master_link_status:up'))
  for (const client of clients) {
    await eventually(async () => (await client.cluster('INFO')).includes('cluster_state:ok'))
    client.disconnect()
  }
  return { ports, stop: async () => void (await Promise.all(nodes.map((node) => node.stop()))) }
}

/** Until it holds; a node that has not heard of another one yet answers with an error. */
async function eventually(condition: () => Promise<boolean>): Promise<void> {
  const giveUpAt = Date.now() + 60_000
  for (;;) {
    const held = await condition().catch((error: Error) => error)
    if (held === true) return
    if (Date.now() > giveUpAt) throw new Error(`the cluster did not come up: ${held}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

// Nodes talk to each other on the port 10,000 above.
async function freeClusterPort(): Promise<number> {
  for (;;) {
    const port = await freePort()
    if (port < 55_000) return port
  }
}

async function ping(port: number): Promise<void> {
  const client = new Redis(port, '127.0.0.1', { lazyConnect: true, retryStrategy: () => null })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.ping()
  } finally {
    client.disconnect()
  }
}
