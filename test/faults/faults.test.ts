import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { startServer } from '../servers/index.ts'
import { temporaryFolder } from '../servers/process.ts'
import type { Server, ServerKind } from '../servers/server.ts'
import { ADAPTERS, type FaultAdapter, type Opened } from './adapters.ts'
import { fails, STEPS, sagasOn } from './sagas.ts'

const LONG = process.env['FAULTS'] === 'long'
const KILLS = LONG ? 200 : 6
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

const servers = new Map<ServerKind, Promise<Server | undefined>>()
const table: Record<string, string | number>[] = []
afterAll(async () => {
  console.log(`seed ${SEED}`)
  console.table(table)
  for (const server of servers.values()) await (await server)?.stop()
})

/** Mulberry32: small, and the same for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

async function urlFor({ server }: FaultAdapter): Promise<string | undefined> {
  if (server === undefined) return ''
  const started = servers.get(server) ?? startServer(server)
  servers.set(server, started)
  return (await started)?.url
}

interface Stage {
  readonly opened: Opened
  readonly lines: () => string[]
  /** Starts a process and waits until it is ready. */
  start(role: 'emit' | 'work', first?: number): Promise<ChildProcess>
}

async function stage(adapter: FaultAdapter, url: string): Promise<Stage> {
  const folder = temporaryFolder('faults')
  const ledger = join(folder, 'ledger')
  writeFileSync(ledger, '')
  const place =
    adapter.server === undefined ? join(folder, 'test.db') : `faults_${Math.random().toString(36).slice(2)}`
  const opened = await adapter.open(url, place)
  await opened.prepare()
  const lines = (): string[] => readFileSync(ledger, 'utf8').split('\n').filter(Boolean)
  const script = fileURLToPath(new URL('process.ts', import.meta.url))
  return {
    opened,
    lines,
    async start(role, first = 0) {
      const ready = lines().filter((line) => line === 'ready').length
      const args = ['--conditions=source', script, role, adapter.name, url, place, ledger, `${first}`]
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] })
      await until(() => lines().filter((line) => line === 'ready').length > ready)
      return child
    },
  }
}

async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const giveUpAt = Date.now() + timeoutMs
  while (!(await condition())) {
    if (Date.now() > giveUpAt) throw new Error(`still not true after ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('close', resolve))
  child.kill('SIGKILL')
  await gone
}

const numbered = (lines: readonly string[], what: string): string[] =>
  lines.flatMap((line) => (line.startsWith(`${what} `) ? [line.slice(what.length + 1)] : []))

for (const adapter of ADAPTERS) {
  describe(adapter.name, () => {
    test('the emitting process is killed at random moments', { timeout: 600_000 }, async ({ skip }) => {
      const url = await urlFor(adapter)
      if (url === undefined) return skip()
      const random = randomFrom(SEED)
      const { opened, lines, start } = await stage(adapter, url)
      for (let kills = 0; kills < KILLS; kills++) {
        const before = numbered(lines(), 'acknowledged').length
        const child = await start('emit', numbered(lines(), 'attempted').length)
        await until(() => numbered(lines(), 'acknowledged').length > before)
        await new Promise((resolve) => setTimeout(resolve, random() * 150))
        await kill(child)
      }
      const { rows, events, payloads } = await opened.contents()
      const acknowledged = numbered(lines(), 'acknowledged')
      const attempted = new Set(numbered(lines(), 'attempted'))
      const slips = events.map(({ slip }) => slip ?? '')
      expect(acknowledged.length).toBeGreaterThanOrEqual(KILLS)
      expect(acknowledged.filter((id) => !slips.includes(id))).toEqual([])
      expect(slips.filter((id) => !attempted.has(id))).toEqual([])
      expect(slips.toSorted()).toEqual(rows.toSorted())
      expect(new Set(slips).size).toBe(slips.length)
      expect(events.map(({ claim }) => claim ?? '').toSorted()).toEqual(payloads.toSorted())
      table.push({
        scenario: 'emitter killed',
        adapter: adapter.name,
        kills: KILLS,
        acknowledged: acknowledged.length,
        stored: slips.length,
        lost: 0,
      })
      await opened.close()
    })

    test('the working process is killed again and again', { timeout: 600_000 }, async ({ skip }) => {
      const url = await urlFor(adapter)
      if (url === undefined) return skip()
      const random = randomFrom(SEED + 1)
      const { opened, lines, start } = await stage(adapter, url)
      const slips = Array.from({ length: LONG ? 500 : 60 }, (_, number) => `slip-${number}`)
      const { engine, slip } = sagasOn(opened.outbox, '/dev/null')
      for (const id of slips) await engine.emit(slip(id))
      const ended = (): number =>
        new Set([...numbered(lines(), 'completed'), ...numbered(lines(), 'compensated')]).size
      for (let kills = 0; kills < KILLS; kills++) {
        const child = await start('work')
        await new Promise((resolve) => setTimeout(resolve, random() * 100))
        await kill(child)
      }
      const before = ended()
      const child = await start('work')
      await until(() => ended() === slips.length)
      await until(async () => (await opened.contents()).events.length === 0)
      await kill(child)

      const all = lines()
      const { events, dead, payloads } = await opened.contents()
      expect({ events, dead, payloads }).toEqual({ events: [], dead: 0, payloads: [] })
      for (const id of slips) {
        const ran = distinct(numbered(all, `execute ${id}`))
        expect(ran, id).toEqual(Array.from({ length: STEPS }, (_, step) => `${step}`))
        const undone = distinct(numbered(all, `compensate ${id}`))
        const reverse = Array.from({ length: STEPS - 1 }, (_, step) => `${STEPS - 2 - step}`)
        expect(undone, id).toEqual(fails(id) ? reverse : [])
      }
      const executed = numbered(all, 'execute').length
      table.push({
        scenario: 'worker killed',
        adapter: adapter.name,
        kills: KILLS,
        slips: slips.length,
        'ended before the last start': before,
        'repeated attempts': executed - slips.length * STEPS,
      })
      await opened.close()
    })

    test('four workers share one outbox', { timeout: 600_000 }, async ({ skip }) => {
      const url = await urlFor(adapter)
      if (url === undefined) return skip()
      const { opened, lines, start } = await stage(adapter, url)
      const workers = await Promise.all([0, 1, 2, 3].map(() => start('work')))
      const slips = Array.from({ length: LONG ? 1_000 : 100 }, (_, number) => `slip-${number}`)
      const { engine, slip } = sagasOn(opened.outbox, '/dev/null')
      for (const id of slips) await engine.emit(slip(id))
      await until(async () => (await opened.contents()).events.length === 0)
      for (const worker of workers) await kill(worker)
      const all = lines()
      expect(numbered(all, 'execute').length).toBe(slips.length * STEPS)
      expect(new Set(numbered(all, 'execute')).size).toBe(slips.length * STEPS)
      expect([...numbered(all, 'completed'), ...numbered(all, 'compensated')].toSorted()).toEqual(
        slips.toSorted(),
      )
      expect((await opened.contents()).payloads).toEqual([])
      table.push({
        scenario: 'four workers',
        adapter: adapter.name,
        slips: slips.length,
        'repeated attempts': 0,
      })
      await opened.close()
    })
  })
}

/** In order of first appearance. */
function distinct(values: readonly string[]): string[] {
  return [...new Set(values)]
}
