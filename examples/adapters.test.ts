import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { startServer } from '../test/servers/index.ts'
import type { Server, ServerKind } from '../test/servers/server.ts'

const servers = new Map<ServerKind, Promise<Server | undefined>>()
afterAll(async () => {
  for (const server of servers.values()) await (await server)?.stop()
})

function server(kind: ServerKind): Promise<Server | undefined> {
  const started = servers.get(kind) ?? startServer(kind)
  servers.set(kind, started)
  return started
}

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

function node(args: readonly string[], env: NodeJS.ProcessEnv): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  expect(status, `${stdout}${stderr}`).toBe(0)
  return stdout
}

const EXAMPLES = [
  ['postgres-drizzle', 'postgres', 'DATABASE_URL'],
  ['postgres-prisma', 'postgres', 'DATABASE_URL'],
  ['redis', 'redis', 'REDIS_URL'],
  ['dynamodb', 'dynamodb', 'DYNAMODB_URL'],
  ['mongodb', 'mongodb', 'MONGODB_URL'],
] as const

for (const [example, kind, variable] of EXAMPLES) {
  test(`${example} runs`, { timeout: 120_000 }, async ({ skip }) => {
    const running = await server(kind)
    if (!running) return skip()
    if (example === 'postgres-prisma') {
      const prisma = path('../node_modules/prisma/build/index.js')
      // Generating needs no schema engine, which would have to be downloaded.
      node([prisma, 'generate', '--schema', path('postgres-prisma/schema.prisma')], {
        PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true',
        CHECKPOINT_DISABLE: '1',
      })
    }
    const output = node(['--conditions=source', path(`${example}/main.ts`)], { [variable]: running.url })
    expect(output).toContain('order-1 completed\n')
    // The two run side by side: only what one of them prints has an order.
    expect(output).toMatch(/releasing chai\n(?:.*\n)*order-2 compensated: card declined\n/)
  })
}
