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
  async local() {
    const binary = onPath('redis-server')
    return binary === undefined ? undefined : startRedis(binary)
  },
  advice:
    'set REDIS_URL, start Docker, or install redis-server (apt-get install redis-server, brew install redis)',
}

async function startRedis(binary: string, more: readonly string[] = []): Promise<Server> {
  const port = await freePort()
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

const SLOTS = [
  [0, 5460],
  [5461, 10922],
  [10923, 16383],
]

/** Three nodes that share the slots; undefined when there is no redis-server on PATH. */
export async function startRedisCluster(): Promise<
  { ports: readonly number[]; stop(): Promise<void> } | undefined
> {
  const binary = onPath('redis-server')
  if (binary === undefined) return undefined
  const flags = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '5000']
  const nodes = await Promise.all([0, 1, 2].map(() => startRedis(binary, flags)))
  const ports = nodes.map(({ url }) => Number(new URL(url).port))
  const clients = ports.map((port) => new Redis(port, '127.0.0.1'))
  for (const [index, client] of clients.entries()) {
    const [first = 0, last = 0] = SLOTS[index] ?? []
    await client.call('CLUSTER', 'ADDSLOTSRANGE', `${first}`, `${last}`)
    await client.call('CLUSTER', 'MEET', '127.0.0.1', `${ports[0]}`)
  }
  for (const client of clients) {
    while (!(await client.cluster('INFO')).includes('cluster_state:ok'))
      await new Promise((resolve) => setTimeout(resolve, 50))
    client.disconnect()
  }
  return { ports, stop: async () => void (await Promise.all(nodes.map((node) => node.stop()))) }
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
