export type { PostgresExecutor, PostgresListener, PostgresParameter } from './executor.ts'
export { type PostgresTableOptions, postgresMigrations } from './schema.ts'
export { PostgresStorage, type PostgresStorageOptions } from './storage.ts'
