import type { TestProject } from 'vitest/node'
import { startServer } from './index.ts'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await startServer('postgres')
  project.provide('serverUrl', server?.url)
  return async () => server?.stop()
}
