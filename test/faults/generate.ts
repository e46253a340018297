/** Makes once what the fault tests' processes start from: the Prisma client, and themselves as one file with a chunk for each driver. */
import { fileURLToPath } from 'node:url'
import { build } from 'rolldown'
import { generateClient } from '../../packages/outbox-postgres-prisma/test/prisma.ts'

await generateClient(fileURLToPath(new URL('generated/prisma', import.meta.url)))

// A process that is killed at once has spent most of its life on loading modules: this halves it.
await build({
  input: fileURLToPath(new URL('process.ts', import.meta.url)),
  platform: 'node',
  resolve: { conditionNames: ['source', 'node', 'import'] },
  external: ['better-sqlite3', 'pg'],
  output: {
    dir: fileURLToPath(new URL('generated', import.meta.url)),
    entryFileNames: '[name].mjs',
    chunkFileNames: '[name].mjs',
    sourcemap: true,
  },
  logLevel: 'warn',
})
