import { readFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem, type } from 'node:os'
import { fileURLToPath } from 'node:url'

const PACKAGES = [
  'better-sqlite3',
  'pg',
  'drizzle-orm',
  'ioredis',
  'mongodb',
  '@aws-sdk/lib-dynamodb',
  'pg-boss',
  'graphile-worker',
  'bullmq',
  '@dbos-inc/dbos-sdk',
]

export interface Environment {
  readonly machine: Readonly<Record<string, string | number>>
  readonly packages: Readonly<Record<string, string>>
}

export function environment(): Environment {
  return {
    machine: {
      node: process.version,
      system: `${type()} ${release()}`,
      cpu: cpus()[0]?.model ?? 'unknown',
      cores: cpus().length,
      'memory, GiB': Math.round(totalmem() / 2 ** 30),
      // Others at work make figures useless.
      'load before': Math.round((loadavg()[0] ?? 0) * 10) / 10,
    },
    packages: Object.fromEntries(PACKAGES.map((name) => [name, versionOf(name)])),
  }
}

// Not every package lets its package.json be imported.
function versionOf(name: string): string {
  const path = fileURLToPath(new URL(`../node_modules/${name}/package.json`, import.meta.url))
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version
}
