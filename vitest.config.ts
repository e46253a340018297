import { defineConfig, type ViteUserConfig } from 'vitest/config'
import projects from './vitest.workspace.ts'

const config: ViteUserConfig = defineConfig({
  test: { projects, reporters: ['default', './test/reporter.ts'], passWithNoTests: true },
})

export default config
