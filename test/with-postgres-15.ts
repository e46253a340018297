/** Runs a command with DATABASE_URL at a private Postgres 15, from Debian's binaries. */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from './servers/process.ts'

const folder = mkdtempSync(join(tmpdir(), 'outbox-postgres-15-'))
chmodSync(folder, 0o777)
const port = await freePort()
// Postgres refuses to run as root.
const user =
  process.getuid?.() === 0 ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups'] : []

function postgres(program: string, ...args: string[]): void {
  const [command = '', ...rest] = [...user, `/usr/lib/postgresql/15/bin/${program}`, ...args]
  const { status, stderr } = spawnSync(command, rest, {
    encoding: 'utf8',
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  if (status !== 0) throw new Error(`${program} failed: ${stderr}`)
}

postgres('initdb', '-D', `${folder}/data`, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C')
postgres(
  'pg_ctl',
  '-D',
  `${folder}/data`,
  '-w',
  '-l',
  `${folder}/log`,
  '-o',
  `-p ${port} -k ${folder} -c max_connections=200`,
  'start',
)
try {
  const [command = '', ...args] = process.argv.slice(2)
  const env = { ...process.env, DATABASE_URL: `postgres://postgres@127.0.0.1:${port}/postgres` }
  process.exitCode = spawnSync(command, args, { env, stdio: 'inherit' }).status ?? 1
} finally {
  postgres('pg_ctl', '-D', `${folder}/data`, '-m', 'immediate', 'stop')
  rmSync(folder, { recursive: true, force: true })
}
