import { dockerRuns } from './docker.ts'
import { dynamodb } from './dynamodb.ts'
import { mongodb } from './mongodb.ts'
import { postgres } from './postgres.ts'
import { redis } from './redis.ts'
import type { Server, ServerKind, Sources } from './server.ts'

export type { Server, ServerKind } from './server.ts'

/** A server that a test may kill. */
export type OwnServer = Server & Required<Pick<Server, 'kill' | 'restart'>>

const SOURCES: Readonly<Record<ServerKind, Sources>> = { postgres, redis, dynamodb, mongodb }

/** The variable that names a server of the user's own. */
export function urlVariable(kind: ServerKind): string {
  return SOURCES[kind].variable
}

/**
 * A real server: the one its variable names, else from Docker, else from what is installed here.
 *
 * @returns undefined, after one loud line, when there is none
 * @throws instead, when OUTBOX_TEST_REQUIRE is `all` or names the server
 */
export async function startServer(kind: ServerKind): Promise<Server | undefined> {
  const sources = SOURCES[kind]
  const url = process.env[sources.variable]
  if (url) return { url, source: sources.variable, stop: async () => {} }
  const server = (await dockerRuns()) ? await sources.docker() : await sources.local()
  return server ?? missing(kind, `there is no ${kind} server here; ${sources.advice}`)
}

/**
 * A durable server of the caller's own, which can be killed and restarted: not the one a variable names, and none in
 * Docker.
 *
 * @returns undefined, after one loud line, when there is none
 * @throws instead, when OUTBOX_TEST_REQUIRE is `all` or names the server
 */
export async function startOwnServer(kind: ServerKind): Promise<OwnServer | undefined> {
  const { variable, local } = SOURCES[kind]
  const server = process.env[variable] ? undefined : await local({ durable: true })
  if (server?.kill && server.restart) return server as OwnServer
  await server?.stop()
  return missing(kind, `no ${kind} server can be killed here; unset ${variable} and install one`)
}

function missing(kind: ServerKind, why: string): undefined {
  const message = `NOT TESTED: ${why}`
  const required = (process.env['OUTBOX_TEST_REQUIRE'] ?? '').split(',')
  if (required.includes('all') || required.includes(kind)) throw new Error(message)
  console.error(`\n${'!'.repeat(3)} ${message}\n`)
  return undefined
}
