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

/** Runs an example to its end, or kills it as soon as `until` says so. */
function run(
  script: string,
  args: readonly string[] = [],
  kill?: { signal: NodeJS.Signals; when: () => boolean },
): Promise<Run> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--conditions=source', path(script), ...args])
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

describe('first', () => {
  test('is the first code block of the README, and runs', async () => {
    const readme = readFileSync(path('../README.md'), 'utf8')
    const [, block] = /```ts\n([\s\S]*?)```/.exec(readme) ?? []
    expect(block).toBe(readFileSync(path('first/main.ts'), 'utf8'))
    const { output, code } = await run('first/main.ts')
    expect(code, output).toBe(0)
    expect(output).toContain('reserving chai under key saga/order-1/0\n')
    expect(output).toContain('order-1 completed\n')
    expect(output).toContain('releasing chai\norder-2 compensated: card declined\n')
  })
})

describe('northwind', () => {
  test('runs the whole order book and reconciles', async () => {
    const { output, code } = await run('northwind/main.ts', ['--db', join(folder, 'whole.db')])
    expect(code, output).toBe(0)
    expect(output).toContain('Reconciled')
  })

  test('goes on where it was after kill -9 and Ctrl-C, and still reconciles', {
    timeout: 120_000,
  }, async () => {
    const file = join(folder, 'killed.db')
    const args = ['--db', file, '--pace', '5']
    for (const signal of ['SIGKILL', 'SIGKILL', 'SIGINT'] as const) {
      const before = ended(file)
      const { output } = await run('northwind/main.ts', args, {
        signal,
        when: () => ended(file) > before + 20,
      })
      expect(output).not.toContain('Reconciled')
    }
    const { output, code } = await run('northwind/main.ts', args)
    expect(code, output).toBe(0)
    expect(output).toMatch(/Going on after \d+ of 830 orders/)
    expect(output).toContain('Reconciled')
  })
})
