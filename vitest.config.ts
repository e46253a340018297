import { availableParallelism } from 'node:os'
import { defineConfig, type ViteUserConfig } from 'vitest/config'
import projects from './vitest.workspace.ts'

// Tests wait for servers and leases most of the time: three files at once, also where there are two cores.
const maxWorkers = Math.max(3, availableParallelism() - 1)

const config: ViteUserConfig = defineConfig({
  test: { projects, maxWorkers, reporters: ['default', './test/reporter.ts'], passWithNoTests: true },
})

export default config
