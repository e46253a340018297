export { isDisconnected } from './errors.ts'
export type { PostgresExecutor, PostgresListener, PostgresParameter } from './executor.ts'
export {
  type PostgresTableOptions,
  type PostgresTables,
  postgresMigrations,
  postgresTables,
} from './schema.ts'
export { PostgresStorage, type PostgresStorageOptions } from './storage.ts'
