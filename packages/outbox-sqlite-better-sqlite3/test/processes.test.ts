import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Database from 'better-sqlite3'
import { afterAll, expect, test } from 'vitest'

const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-processes-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const worker = fileURLToPath(new URL('worker.ts', import.meta.url))

function run(...args: string[]): Promise<number | null> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--conditions=source', worker, ...args], {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    child.on('close', resolve)
  })
}

test.each(['wal', 'delete'])(
  'journal_mode %s: two processes emit into one file while two others handle, each event once',
  {
    timeout: 120_000,
  },
  async (mode) => {
    const path = join(folder, `${mode}.db`)
    const created = new Database(path)
    created.pragma(`journal_mode = ${mode}`)
    created.close()
    expect(await run('initialize', path)).toBe(0)
    const codes = await Promise.all([
      run('emit', path, 'a', '200'),
      run('emit', path, 'b', '200'),
      run('handle', path, '400'),
      run('handle', path, '400'),
    ])
    expect(codes).toEqual([0, 0, 0, 0])
    const db = new Database(path)
    expect(
      db.prepare('SELECT count(*) AS n, count(DISTINCT event) AS distinct_n FROM handled').get(),
    ).toEqual({
      n: 400,
      distinct_n: 400,
    })
    expect(db.prepare('SELECT count(*) AS n FROM outbox_events').get()).toEqual({ n: 0 })
    expect(db.prepare('SELECT count(*) AS n FROM business').get()).toEqual({ n: 400 })
  },
)
