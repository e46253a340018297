import { type ChildProcess, spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryFolder } from '../servers/process.ts'
import type { Opened, OpenOptions } from './adapters/adapter.ts'
import { ADAPTERS, type AdapterName } from './adapters/index.ts'
import { Listener } from './leaks.ts'
import { Ledger } from './ledger.ts'
import type { ProcessSettings } from './settings.ts'

/** A fresh place of an adapter, the ledger kept beside it, and the processes that work on it. */
export interface Stage {
  readonly adapter: AdapterName
  /** A file, a schema, a key prefix, a database, a pair of tables. */
  readonly place: string
  readonly ledger: Ledger
  /** A client of this process on the place. */
  readonly opened: Opened
  /** Another client of this process on the place. */
  open(options?: OpenOptions, url?: string): Promise<Opened>
  /** Starts a process on the place and waits until it is ready. */
  start(role: ProcessSettings['role'], more?: Partial<ProcessSettings>): Promise<ChildProcess>
  /** Kills what was started, and closes what was opened. */
  leave(): Promise<void>
}

const SHORT_OF_MEMORY = ['--max-old-space-size=48', '--max-semi-space-size=1']

// Made of process.ts before the tests begin.
const SCRIPT = fileURLToPath(new URL('generated/process.mjs', import.meta.url))

/** @param at another place than a fresh one: for a database on a disk of its own */
export async function enter(adapter: AdapterName, url: string, at?: string): Promise<Stage> {
  const folder = temporaryFolder('faults')
  const ledger = new Ledger(join(folder, 'ledger'))
  const place =
    at ?? (adapter === 'sqlite' ? join(folder, 'test.db') : `faults_${Math.random().toString(36).slice(2)}`)
  const { open } = await ADAPTERS[adapter].load()
  const listener = new Listener(url)
  const clients: Opened[] = []
  const children: ChildProcess[] = []
  const another = async (options?: OpenOptions, through = url): Promise<Opened> => {
    const client = await open(through, place, { logger: listener, ...options })
    clients.push(client)
    return client
  }
  const opened = await another()
  await opened.prepare()
  return {
    adapter,
    place,
    ledger,
    opened,
    open: another,
    async start(role, more = {}) {
      const settings: ProcessSettings = { role, adapter, url, place, ledger: ledger.file, ...more }
      const options = ['--enable-source-maps', ...(role === 'poison' ? SHORT_OF_MEMORY : [])]
      const child = spawn(process.execPath, [...options, SCRIPT, JSON.stringify(settings)], {
        // A process that runs out of memory says so at length.
        stdio: ['ignore', 'ignore', role === 'poison' ? 'ignore' : 'inherit'],
        // Most of a short life would be spent on compiling.
        env: { ...process.env, NODE_COMPILE_CACHE: join(folder, '..', 'outbox-faults-compile-cache') },
      })
      children.push(child)
      // Another process may have had the same number before.
      const before = ledger.lines().length
      await until(() => ledger.lines().includes(`ready ${child.pid}`, before) || ended(child))
      return child
    },
    async leave() {
      await Promise.all(children.map((child) => kill(child)))
      for (const client of clients) await client.close()
      // The process that made it may be killed before it could remove it.
      rmSync(folder, { recursive: true, force: true })
      listener.assertNoLeaks()
    },
  }
}

export function ended({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null
}

/** Sends a signal and waits for the end. */
export async function kill(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (ended(child)) return
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill(signal)
  await gone
}

/** Waits until the process has ended by itself. */
export async function end(child: ChildProcess): Promise<void> {
  await until(() => ended(child))
}

/** How long to wait for what should come soon on an idle machine: this one may be busy. */
const PATIENCE_MS = process.env['FAULTS'] === 'long' ? 7_200_000 : 240_000

/** @param everyMs how often to look: seldom where looking is work for a server */
export async function until(condition: () => boolean | Promise<boolean>, everyMs = 10): Promise<void> {
  const giveUpAt = Date.now() + PATIENCE_MS
  while (!(await condition())) {
    if (Date.now() > giveUpAt) throw new Error(`still not true after ${PATIENCE_MS} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, everyMs))
  }
}

/** Waits until no event is left open. */
export async function drained({ contents }: Opened): Promise<void> {
  await until(async () => (await contents()).events.length === 0, 100)
}
