import Database from 'better-sqlite3'
import { SqliteBetterSqlite3Outbox } from '../src/index.ts'

const db = new Database(process.argv[2] ?? '', { timeout: 0 })
await new SqliteBetterSqlite3Outbox(db).initialize()
db.close()
