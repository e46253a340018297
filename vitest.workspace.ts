import { existsSync, readdirSync } from 'node:fs'
import type { TestProjectConfiguration } from 'vitest/config'

/** Lets tests import the packages' TypeScript sources, so that nothing has to be built first. */
const resolve = { conditions: ['source', 'node'] }

/** The server that a project's tests need, by a word in its name. */
const SERVERS = ['postgres', 'redis', 'dynamodb', 'mongodb'] as const

function project(name: string, folder: string): TestProjectConfiguration {
  const server = SERVERS.find((kind) => name.includes(kind))
  return {
    resolve,
    ssr: { resolve },
    test: {
      name,
      include: [`${folder}/**/*.test.ts`],
      testTimeout: 30_000,
      hookTimeout: 120_000,
      ...(server && { globalSetup: `test/servers/setup-${server}.ts` }),
    },
  }
}

const tested = (folder: string): boolean => existsSync(new URL(folder, import.meta.url))

const projects: TestProjectConfiguration[] = readdirSync(new URL('packages', import.meta.url))
  .map((name) => project(name, `packages/${name}/test`))
  .concat(['examples', 'test'].filter(tested).map((folder) => project(folder, folder)))

export default projects
