import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Database from 'better-sqlite3'
import { afterAll, describe, expect, test } from 'vitest'

const folder = mkdtempSync(join(tmpdir(), 'outbox-examples-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

interface Run {
  readonly output: string
  readonly code: number | null
}

/** Runs an example to its end, or kills it as soon as `kill` says so. */
function run(
  example: string,
  args: readonly string[] = [],
  kill?: { signal: NodeJS.Signals; when: () => boolean },
): Promise<Run> {
  return node(['--conditions=source', path('run.js'), example, ...args], kill)
}

function node(args: readonly string[], kill?: { signal: NodeJS.Signals; when: () => boolean }): Promise<Run> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args)
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })
    const watching = setInterval(() => {
      if (kill?.when()) child.kill(kill.signal)
    }, 20)
    child.on('close', (code) => {
      clearInterval(watching)
      resolve({ output, code })
    })
  })
}

/** How many orders of an order book have ended. */
function ended(file: string): number {
  if (!existsSync(file)) return 0
  const db = new Database(file, { readonly: true })
  try {
    const count = db.prepare("SELECT count(*) AS n FROM orders WHERE status <> 'accepted'")
    return (count.get() as { n: number }).n
  } catch {
    // Not begun yet.
    return 0
  } finally {
    db.close()
  }
}

/** Changes an order book behind the back of its service. */
function change(file: string, sql: string): void {
  const db = new Database(file)
  expect(db.prepare(sql).run().changes).toBe(1)
  db.close()
}

test('an old Node says in one line what to do', async () => {
  const old = "data:text/javascript,Object.defineProperty(process.versions, 'node', { value: '20.20.2' })"
  const { output, code } = await node(['--import', old, path('run.js'), 'first'])
  expect(output).toMatch(/^Node 20\.20\.2 is too old, .*npm run example first.*\n$/)
  expect(code).toBe(1)
})

describe('first', () => {
  test('is the first code block of the README, and runs', async () => {
    const readme = readFileSync(path('../README.md'), 'utf8')
    const [, block] = /```ts\n([\s\S]*?)```/.exec(readme) ?? []
    expect(block).toBe(readFileSync(path('first/main.ts'), 'utf8'))
    const { output, code } = await run('first')
    expect(code, output).toBe(0)
    expect(output).toContain('reserving chai under key saga/order-1/0\n')
    expect(output).toContain('order-1 completed\n')
    expect(output).toContain('releasing chai\norder-2 compensated: card declined\n')
  })
})

describe('services', () => {
  test('each takes what it can handle, and what has a key in its order', async () => {
    const { output, code } = await run('services')
    expect(code, output).toBe(0)
    const lines = output.trim().split('\n')
    expect(lines.toSorted()).toEqual(
      [
        'left: 0',
        'shop: audit of order-1',
        'shop: charging 4200 cents',
        'shop: mail about order-1',
        'shop: order-1 completed',
        'warehouse: order-1 is packed now',
        'warehouse: order-1 is placed now',
        'warehouse: order-1 is sent now',
        'warehouse: reserving chai',
      ].toSorted(),
    )
    const changes = lines.filter((line) => line.startsWith('warehouse: order-1 is'))
    expect(changes.map((line) => line.split(' ')[3])).toEqual(['placed', 'packed', 'sent'])
  })
})

// Each of these is up to four order books of some seconds, more where the machine is busy.
describe('northwind', { timeout: 300_000 }, () => {
  test('runs the whole order book and reconciles', async () => {
    const { output, code } = await run('northwind', ['--db', join(folder, 'whole.db')])
    expect(code, output).toBe(0)
    expect(output).toContain('Reconciled')
  })

  test('two on one file share the work, and both reconcile', async () => {
    const args = ['--db', join(folder, 'shared.db')]
    for (const { output, code } of await Promise.all([run('northwind', args), run('northwind', args)])) {
      expect(code, output).toBe(0)
      expect(output).toContain('Reconciled')
    }
  })

  test('does not reconcile when a unit of stock or a payment was lost or doubled', async () => {
    const file = join(folder, 'tampered.db')
    const args = ['--db', file, '--pace', '5']
    await run('northwind', args, { signal: 'SIGKILL', when: () => ended(file) > 20 })
    const stolen = 'UPDATE products SET stock = stock - 1 WHERE id = 1'
    const doubled = "INSERT INTO payments SELECT 'doubled', order_id, cents FROM payments LIMIT 1"
    const lost = 'UPDATE movements SET quantity = quantity + 1 WHERE rowid = 1'
    for (const [tampering, mending, reason] of [
      [stolen, 'UPDATE products SET stock = stock + 1 WHERE id = 1', /stock of product 1: expected/],
      [doubled, "DELETE FROM payments WHERE key = 'doubled'", /payment of order \d+: expected/],
      [lost, 'UPDATE movements SET quantity = quantity - 1 WHERE rowid = 1', /units of product \d+ in order/],
    ] as const) {
      change(file, tampering)
      const { output, code } = await run('northwind', args)
      expect(code, output).toBe(1)
      expect(output).toMatch(/RECONCILIATION FAILED/)
      expect(output).toMatch(reason)
      change(file, mending)
    }
    const { output, code } = await run('northwind', args)
    expect(code, output).toBe(0)
  })

  test('goes on where it was after kill -9 and Ctrl-C, and still reconciles', async () => {
    const file = join(folder, 'killed.db')
    const args = ['--db', file, '--pace', '5']
    for (const signal of ['SIGKILL', 'SIGKILL', 'SIGINT'] as const) {
      const before = ended(file)
      const { output } = await run('northwind', args, {
        signal,
        when: () => ended(file) > before + 20,
      })
      expect(output).not.toContain('Reconciled')
    }
    const { output, code } = await run('northwind', args)
    expect(code, output).toBe(0)
    expect(output).toMatch(/Going on after \d+ of 830 orders/)
    expect(output).toContain('Reconciled')
  })
})
