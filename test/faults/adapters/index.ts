import type { ServerKind } from '../../servers/server.ts'
import type { Open } from './adapter.ts'

export interface FaultAdapter {
  /** The server it needs; SQLite needs none. */
  readonly server?: ServerKind
  /** Loads the driver: a process that is killed a hundred times should load one, not six. */
  load(): Promise<{ readonly open: Open }>
}

export const ADAPTERS = {
  sqlite: { load: () => import('./sqlite.ts') },
  'postgres-drizzle': { server: 'postgres', load: () => import('./postgres-drizzle.ts') },
  'postgres-prisma': { server: 'postgres', load: () => import('./postgres-prisma.ts') },
  redis: { server: 'redis', load: () => import('./redis.ts') },
  mongodb: { server: 'mongodb', load: () => import('./mongodb.ts') },
  dynamodb: { server: 'dynamodb', load: () => import('./dynamodb.ts') },
} as const satisfies Record<string, FaultAdapter>

export type AdapterName = keyof typeof ADAPTERS

export const ADAPTER_NAMES = Object.keys(ADAPTERS) as AdapterName[]
