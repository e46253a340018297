import { dockerRuns } from './docker.ts'
import { dynamodb } from './dynamodb.ts'
import { mongodb } from './mongodb.ts'
import { postgres } from './postgres.ts'
import { redis } from './redis.ts'
import type { Server, ServerKind, Sources } from './server.ts'

export type { Server, ServerKind } from './server.ts'

const SOURCES: Readonly<Record<ServerKind, Sources>> = { postgres, redis, dynamodb, mongodb }

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
  if (server) return server
  const message = `NOT TESTED: there is no ${kind} server here; ${sources.advice}`
  const required = (process.env['OUTBOX_TEST_REQUIRE'] ?? '').split(',')
  if (required.includes('all') || required.includes(kind)) throw new Error(message)
  console.error(`\n${'!'.repeat(3)} ${message}\n`)
  return undefined
}
