import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const PROGRAM = fileURLToPath(new URL('crashing.ts', import.meta.url))

/** Runs the program in a process of its own, as a service runs: without anything that catches what nobody handles. */
function run(what: string): Promise<{ readonly code: number | null; readonly output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--conditions=source', PROGRAM, what])
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        output += chunk
      })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, output }))
  })
}

test.each(['voided', 'goneOnFrom', 'held', 'late', 'afterItsEnd', 'transaction', 'oddErrors'])(
  'a process lives on, whatever becomes of promises and errors that nobody handles: %s',
  async (what) => {
    const { code, output } = await run(what)
    expect({ code, output: output.trim() }).toEqual({
      code: 0,
      output: 'the process lives: 1 dead, 1 handled',
    })
  },
  60_000,
)

test('what is the user’s own unhandled rejection still ends it: the others would be no proof otherwise', async () => {
  const { code, output } = await run('ofTheUser')
  expect(code).toBe(1)
  expect(output).toContain('of the user')
}, 60_000)
