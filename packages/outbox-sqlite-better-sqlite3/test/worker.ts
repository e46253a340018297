import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { OutboxEventBus } from 'outbox-core'
import { SqliteBetterSqlite3Outbox } from '../src/index.ts'

const [, , role, path = '', ...rest] = process.argv
const db = new Database(path)
const outbox = new SqliteBetterSqlite3Outbox(db)
const bus = new OutboxEventBus<{ made: { n: string } }>(outbox)

if (role === 'initialize') {
  await outbox.initialize()
  db.exec('CREATE TABLE business (n TEXT); CREATE TABLE handled (event TEXT)')
}
if (role === 'emit') {
  const [name, count] = rest
  for (let n = 0; n < Number(count); n++) {
    await outbox.transaction(async (tx) => {
      tx.prepare('INSERT INTO business VALUES (?)').run(`${name}${n}`)
      await bus.emit('made', { n: `${name}${n}` })
    })
  }
}
if (role === 'handle') {
  const [expected] = rest
  bus.on('made', async ({ payload }) => {
    await outbox.transaction((tx) => {
      tx.prepare('INSERT INTO handled VALUES (?)').run(payload.n)
    })
  })
  await bus.start()
  const handled = db.prepare('SELECT count(*) AS n FROM handled')
  while ((handled.get() as { n: number }).n < Number(expected)) await sleep(10)
  await bus.stop()
}
