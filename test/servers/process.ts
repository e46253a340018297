import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, constants, mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

const children = new Set<ChildProcess>()
const folders = new Set<string>()

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

const MEMORY = '/dev/shm'
const ROOM_BYTES = 4 * 1024 ** 3

/**
 * A folder that is gone when the process ends: in memory where there is room, for tests kill processes and pull no plug.
 * The variable OUTBOX_TEST_FOLDER puts it elsewhere.
 */
export function temporaryFolder(name: string): string {
  const parent = process.env['OUTBOX_TEST_FOLDER'] ?? (hasRoom(MEMORY) ? MEMORY : tmpdir())
  const folder = mkdtempSync(join(parent, `outbox-${name}-`))
  folders.add(folder)
  return folder
}

// A container's has 64 MB by default.
function hasRoom(folder: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(folder)
    return bavail * bsize > ROOM_BYTES
  } catch {
    return false
  }
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (typeof address !== 'object' || !address) throw new Error('no port was given')
  return address.port
}

/** The path of a program on PATH. */
export function onPath(program: string): string | undefined {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(folder, program)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return undefined
}

/** A server as a child process: started until `ready` resolves, stopped, killed, started again. */
export class ServerProcess {
  readonly #command: string
  readonly #args: readonly string[]
  readonly #ready: () => Promise<unknown>
  #child: ChildProcess | undefined
  #cwd = ''
  #output = ''

  constructor(command: string, args: readonly string[], ready: () => Promise<unknown>) {
    this.#command = command
    this.#args = args
    this.#ready = ready
  }

  async start(): Promise<void> {
    // Some servers leave files of their own where they are started.
    this.#cwd = temporaryFolder('server')
    const child = spawn(this.#command, this.#args, { cwd: this.#cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    children.add(child)
    this.#child = child
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk).slice(-4_000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.on('error', (error) => keep(Buffer.from(String(error))))
    await this.#untilReady(child)
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#child
    if (!child) return
    this.#child = undefined
    const gone = child.exitCode !== null || child.signalCode !== null
    const exited = new Promise((resolve) => child.once('exit', resolve))
    if (!gone && child.kill(signal)) await exited
    children.delete(child)
    rmSync(this.#cwd, { recursive: true, force: true })
  }

  async #untilReady(child: ChildProcess): Promise<void> {
    const giveUpAt = Date.now() + 60_000
    for (;;) {
      try {
        await this.#ready()
        return
      } catch (error) {
        if (child.exitCode !== null || Date.now() > giveUpAt) {
          throw new Error(`${this.#command} did not start: ${this.#output}`, { cause: error })
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}
