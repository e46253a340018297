import { afterAll, describe, expect, test } from 'vitest'
import { startServer } from './index.ts'
import type { Server, ServerKind } from './server.ts'

const started: Server[] = []
afterAll(async () => {
  await Promise.all(started.map((server) => server.stop()))
})

describe('servers', () => {
  for (const kind of ['postgres', 'redis', 'dynamodb', 'mongodb'] as const satisfies readonly ServerKind[]) {
    test(`a ${kind} server starts and says where it came from`, { timeout: 120_000 }, async ({ skip }) => {
      const server = await startServer(kind)
      if (!server) return skip()
      started.push(server)
      expect(server.url).toMatch(/^\w+:\/\//)
      expect(server.source).not.toBe('')
    })
  }
})
