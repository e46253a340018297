import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { startServer } from '../servers/index.ts'
import type { ServerKind } from '../servers/server.ts'

const KINDS: readonly ServerKind[] = ['postgres', 'redis', 'mongodb', 'dynamodb']

declare module 'vitest' {
  export interface ProvidedContext {
    /** Undefined for a server that is not to be had here. */
    serverUrls: Readonly<Record<ServerKind, string | undefined>>
    faultSeed: number
  }
}

/** One server of each kind for all fault tests; those that kill their server start one of their own. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const servers = await Promise.all(KINDS.map((kind) => startServer(kind)))
  const urls = KINDS.map((kind, index) => [kind, servers[index]?.url] as const)
  project.provide('serverUrls', Object.fromEntries(urls) as Record<ServerKind, string | undefined>)
  project.provide('faultSeed', Number(process.env['SEED'] ?? Date.now() % 1_000_000))
  // A process of its own: this file is loaded without the condition that leads to the packages' sources.
  execFileSync(process.execPath, [
    '--conditions=source',
    fileURLToPath(new URL('generate.ts', import.meta.url)),
  ])
  return async () => {
    await Promise.all(servers.map((server) => server?.stop()))
  }
}
