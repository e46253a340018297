import { sleep, takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { appending, connect, event, newFile, open, outboxOn, stored } from './opened.ts'

describe('write', () => {
  test('a duplicate settles nothing', async () => {
    const { db, storage } = await open()
    await storage.write([appending(event('taken', { due: { inMs: 60_000 }, fingerprint: 'first' }))])
    await storage.write([appending(event('work'))])
    const [lease] = await takeDue(storage, 1, 60_000)
    const { id = '', attempt = 0 } = lease ?? {}
    const settle = { kind: 'complete', id, attempt, keepMs: 0 } as const
    const again = { settle, ...appending(event('taken', { fingerprint: 'second' })) }
    expect(await storage.write([again])).toEqual([{ status: 'duplicate', fingerprint: 'first' }])
    expect(db.prepare('SELECT id, state FROM outbox_events ORDER BY id').all()).toEqual([
      { id: 'taken', state: 0 },
      { id: 'work', state: 1 },
    ])
    expect(await storage.write([{ settle, ...appending(event('next')) }])).toEqual([{ status: 'applied' }])
  })

  test('an event whose first one another process deletes meanwhile is appended all the same', async () => {
    const path = newFile()
    const db = connect(path)
    const elsewhere = connect(path)
    const prepare = db.prepare.bind(db)
    let overtaking = false
    db.prepare = ((sql: string) => {
      const statement = prepare(sql)
      const run = statement.run.bind(statement)
      statement.run = (...parameters: unknown[]) => {
        const result = run(...parameters)
        if (overtaking && result.changes === 0) elsewhere.exec('DELETE FROM outbox_events')
        return result
      }
      return statement
    }) as typeof db.prepare
    const outbox = outboxOn(db)
    await outbox.initialize()
    const { storage } = outbox
    const again = appending(event('mine', { fingerprint: 'same' }))
    await storage.write([again])
    overtaking = true
    expect(await storage.write([again])).toEqual([{ status: 'applied' }])
    expect(stored(elsewhere)).toEqual(['mine'])
  })

  test('takes back a hundred events of 200 KB as they were, stored one by one in one transaction', async () => {
    const texts: string[] = []
    const { storage } = await open({}, { verbose: (text) => texts.push(String(text).slice(0, 6)) })
    const body = JSON.stringify({ text: 'ä"\\\u0001😀'.repeat(15_000), lone: '\ud800' })
    texts.length = 0
    await storage.write(Array.from({ length: 100 }, (_, n) => appending(event(`event-${n}`, { body }))))
    expect(texts).toEqual(['BEGIN ', ...Array(100).fill('INSERT'), 'COMMIT'])
    const leased = await takeDue(storage, 100, 60_000)
    expect(leased.map(({ id }) => id)).toEqual(Array.from({ length: 100 }, (_, n) => `event-${n}`))
    expect(leased.every((one) => one.body === body)).toBe(true)
  })
})

describe('lease', () => {
  /** An outbox that is overtaken by another process between looking for due events and leasing them. */
  async function overtaken() {
    const path = newFile()
    const db = connect(path)
    const prepare = db.prepare.bind(db)
    const others: (() => unknown)[] = []
    db.prepare = ((sql: string) => {
      const statement = prepare(sql)
      const all = statement.all.bind(statement)
      statement.all = (...parameters: unknown[]) => {
        const rows = all(...parameters)
        if (sql.startsWith('SELECT seq')) others.pop()?.()
        return rows
      }
      return statement
    }) as typeof db.prepare
    const outbox = outboxOn(db)
    await outbox.initialize()
    await outbox.storage.write([appending(event('old'))])
    return {
      storage: outbox.storage,
      elsewhere: connect(path),
      by: (other: () => unknown) => others.push(other),
    }
  }

  test('hands out only what it has leased, though another process has used the row again meanwhile', async () => {
    const { storage, elsewhere, by } = await overtaken()
    by(() =>
      elsewhere.exec(`DELETE FROM outbox_events;
        INSERT INTO outbox_events (id, type, body, headers, created_at, visible_at) VALUES ('new', 't', '"new"', '{}', 1, 1)`),
    )
    expect(await takeDue(storage, 10, 60_000)).toEqual([])
    expect(await takeDue(storage, 10, 60_000)).toMatchObject([{ id: 'new', body: '"new"', attempt: 1 }])
  })

  test('does not take what another process has leased meanwhile', async () => {
    const { storage, elsewhere, by } = await overtaken()
    by(() =>
      elsewhere.exec('UPDATE outbox_events SET state = 1, attempt = 1, visible_at = visible_at + 60000'),
    )
    expect(await takeDue(storage, 10, 60_000)).toEqual([])
    expect(elsewhere.prepare('SELECT attempt FROM outbox_events').pluck().get()).toBe(1)
  })
})

describe('purge', () => {
  test('deletes no more payloads once it has so many bytes, the oldest first, and is asked again for what is left', async () => {
    const { db, outbox, storage } = await open()
    const expired = (count: number, bytes: number): void => {
      const insert = db.prepare('INSERT INTO saga_store (id, data, expires_at) VALUES (?, ?, ?)')
      for (let n = 1; n <= count; n++) insert.run(`claim-${n}`, Buffer.alloc(bytes), n)
    }
    const left = (): unknown => db.prepare('SELECT id FROM saga_store').pluck().all()
    expired(5, 1_000)
    expect(await storage.purge(100, { bytes: 2_500 })).toEqual({ events: 0, payloads: 3, more: true })
    // One that is larger than that goes alone.
    expect(await storage.purge(100, { bytes: 1 })).toEqual({ events: 0, payloads: 1, more: true })
    expect(left()).toEqual(['claim-5'])
    expect(await storage.purge(100, { bytes: 1_000 })).toEqual({ events: 0, payloads: 1 })
    expired(5, 20 * 1024 * 1024)
    expect(await outbox.sagaStore('1d').cleanup()).toBe(5)
    expect(left()).toEqual([])
  })
})

describe('listen', () => {
  test('goes on after the file was locked while it looked, and takes no part in a transaction', async () => {
    const { db, path, storage } = await open()
    const elsewhere = connect(path)
    let wakes = 0
    db.exec('BEGIN')
    const stop = await storage.listen?.(() => wakes++)
    elsewhere.exec('CREATE TABLE by_others (n INTEGER)')
    // The transaction has read nothing yet, so it sees what others have committed since it began.
    expect(db.prepare('SELECT count(*) FROM by_others').pluck().get()).toBe(0)
    db.exec('COMMIT')
    await sleep(30)
    elsewhere.exec('BEGIN EXCLUSIVE; INSERT INTO by_others VALUES (1)')
    await sleep(50)
    elsewhere.exec('COMMIT')
    await until(() => wakes > 0)
    await stop?.()
    const before = wakes
    elsewhere.exec('INSERT INTO by_others VALUES (2)')
    await sleep(30)
    expect(wakes).toBe(before)
  })

  test('ends with the outbox', async () => {
    const { path, outbox, storage } = await open()
    const elsewhere = connect(path)
    let wakes = 0
    await storage.listen?.(() => wakes++)
    elsewhere.exec('CREATE TABLE by_others (n INTEGER)')
    await until(() => wakes > 0)
    await outbox.close()
    const before = wakes
    elsewhere.exec('INSERT INTO by_others VALUES (1)')
    await sleep(50)
    expect(wakes).toBe(before)
  })

  test('is not woken by commits of its own connection', async () => {
    const { storage } = await open()
    let wakes = 0
    const stop = await storage.listen?.(() => wakes++)
    await storage.write([appending(event('mine'))])
    await sleep(50)
    expect(wakes).toBe(0)
    await stop?.()
  })
})
