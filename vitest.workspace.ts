import { readdirSync } from 'node:fs'
import type { TestProjectConfiguration } from 'vitest/config'

/** Lets tests import the packages' TypeScript sources, so that nothing has to be built first. */
const resolve = { conditions: ['source', 'module', 'node', 'development|production'] }

function project(name: string, folder: string): TestProjectConfiguration {
  return {
    resolve,
    ssr: { resolve },
    test: { name, include: [`${folder}/**/*.test.ts`], testTimeout: 20_000, hookTimeout: 60_000 },
  }
}

const packages = readdirSync(new URL('packages', import.meta.url))

const projects: TestProjectConfiguration[] = [
  ...packages.map((name) => project(name, `packages/${name}/test`)),
  project('examples', 'examples'),
  project('test', 'test'),
]

export default projects
