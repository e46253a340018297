import { readdirSync } from 'node:fs'
import type { TestProjectConfiguration } from 'vitest/config'

/** Lets tests import the packages' TypeScript sources, so that nothing has to be built first. */
const resolve = { conditions: ['source', 'node'] }

/** The server that a project's tests need, by a word in its name. */
const SERVERS = ['postgres', 'redis', 'dynamodb', 'mongodb'] as const

function project(name: string, folder: string, globalSetup = setupFor(name)): TestProjectConfiguration {
  return {
    resolve,
    ssr: { resolve },
    test: {
      name,
      include: [`${folder}/**/*.test.ts`],
      testTimeout: 90_000,
      hookTimeout: 120_000,
      ...(globalSetup && { globalSetup }),
    },
  }
}

function setupFor(name: string): string | undefined {
  const server = SERVERS.find((kind) => name.includes(kind))
  return server && `test/servers/setup-${server}.ts`
}

const projects: TestProjectConfiguration[] = readdirSync(new URL('packages', import.meta.url))
  .map((name) => project(name, `packages/${name}/test`))
  .concat(
    project('examples', 'examples'),
    project('servers', 'test/servers'),
    project('engine', 'test/engine'),
    project('generated', 'test/generated'),
    project('docs', 'test/docs'),
  )
  .concat(project('faults', 'test/faults', 'test/faults/setup.ts'))

export default projects
