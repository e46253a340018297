/** Packs every package and checks what users would get: publint, and whether its types resolve. */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

let failed = false
for (const name of readdirSync('packages')) {
  const folder = `packages/${name}`
  for (const command of [
    ['publint', folder, '--strict'],
    ['attw', '--pack', folder, '--profile', 'esm-only'],
  ]) {
    const [program = '', ...args] = command
    const { status, stdout, stderr } = spawnSync(`node_modules/.bin/${program}`, args, { encoding: 'utf8' })
    console.log(`${status === 0 ? 'ok' : 'FAILED'} ${command.join(' ')}`)
    if (status === 0) continue
    failed = true
    console.log(stdout, stderr)
  }
}
process.exitCode = failed ? 1 : 0
