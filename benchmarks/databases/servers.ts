import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { type ServerKind, startServer, urlVariable } from '../../test/servers/index.ts'

/** A real server, which the processes that this one starts use as well; undefined when there is none here. */
export async function sharedServer(kind: ServerKind): Promise<string | undefined> {
  // Commits are to cost what they cost on a disk.
  process.env['OUTBOX_TEST_FOLDER'] ??= tmpdir()
  const server = await startServer(kind)
  if (server) process.env[urlVariable(kind)] = server.url
  return server?.url
}

/** A name that no other place has. */
export function newPlace(): string {
  return `bench_${randomUUID().replaceAll('-', '').slice(0, 16)}`
}
