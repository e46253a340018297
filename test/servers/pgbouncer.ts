import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort, temporaryFolder } from './process.ts'

/**
 * PgBouncer in transaction mode before a server: every transaction may get another connection of the server's.
 *
 * @returns undefined where it is not installed
 */
export async function startPgBouncer(
  server: string,
): Promise<{ readonly url: string; stop(): Promise<void> } | undefined> {
  if (spawnSync('pgbouncer', ['--version']).status !== 0) return undefined
  const { hostname, port, username, password, pathname } = new URL(server)
  const folder = temporaryFolder('pgbouncer')
  chmodSync(folder, 0o777)
  const own = await freePort()
  const secret = password && ` password=${decodeURIComponent(password)}`
  writeFileSync(
    `${folder}/pgbouncer.ini`,
    `[databases]
* = host=${hostname} port=${port || 5432} user=${username}${secret}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${own}
auth_type = any
pool_mode = transaction
default_pool_size = 4
ignore_startup_parameters = extra_float_digits,options
unix_socket_dir =
`,
  )
  // It refuses to run as root.
  const as = process.getuid?.() === 0 ? ['-u', 'nobody'] : []
  const running = spawn('pgbouncer', [...as, `${folder}/pgbouncer.ini`], { stdio: 'ignore' })
  const exited = new Promise((resolve) => running.once('exit', resolve))
  for (let tries = 0; !(await answers(own)); tries++) {
    if (tries > 200) throw new Error('pgbouncer did not start')
    await sleep(25)
  }
  return {
    url: `postgres://${username}@127.0.0.1:${own}${pathname}`,
    async stop() {
      running.kill('SIGINT')
      await exited
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}
