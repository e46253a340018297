import { spawnSync } from 'node:child_process'
import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { Redis } from 'ioredis'
import pg from 'pg'
import { expect } from 'vitest'
import { startOwnServer } from '../servers/index.ts'
import { temporaryFolder } from '../servers/process.ts'
import { repeatedAttempts } from './ledger.ts'
import { Emitter, Load, settledAsTold } from './load.ts'
import { sagasOn } from './sagas.ts'
import { type Counts, onServers, scenario } from './scenario.ts'
import { enter, type Stage, until } from './stage.ts'

const ROUNDS = { short: 20, long: 200 }

/** What makes a database refuse, and takes the reason away again. */
interface Exhaustion {
  begin(): unknown
  end(): unknown
}

/** Emits and works throughout: refused while the database has no room, by itself once it has. */
async function exhausted(
  stage: Stage,
  rounds: number,
  { begin, end }: Exhaustion,
  opened = stage.opened,
): Promise<Counts> {
  const { ledger } = stage
  const sagas = sagasOn(opened.outbox, ledger.file)
  const emitter = new Emitter(opened, sagas)
  await sagas.bus.start()
  const load = new Load(emitter, { pauseMs: 5 })
  for (let round = 0; round < rounds; round++) {
    const { refused } = emitter
    await begin()
    await load.during(until(() => emitter.refused > refused))
    await end()
    const { acknowledged } = emitter
    await load.during(until(() => emitter.acknowledged > acknowledged))
  }
  await load.stop()
  await settledAsTold(stage, load.slips)
  await sagas.bus.stop()
  expect(emitter.unknown).toBe(0)
  return {
    rounds,
    emits: load.emits,
    refused: emitter.refused,
    'repeated attempts': repeatedAttempts(ledger),
  }
}

onServers('disk full', { ...ROUNDS, adapters: ['sqlite'] }, async (_, { amount }) => {
  const disk = temporaryFolder('full-disk')
  // A file system of its own takes root.
  const mounted = asRoot('mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', disk) === 0
  if (!mounted)
    console.error('!!! NOT TESTED: a full disk, since none can be mounted; max_page_count instead')
  const file = join(disk, 'test.db')
  const stage = await enter('sqlite', '', file)
  const raw = new Database(file)
  try {
    return await exhausted(stage, amount, mounted ? fullDisk(disk, raw) : fullDatabase(stage))
  } finally {
    raw.close()
    await stage.leave()
    if (mounted) asRoot('umount', disk)
  }
})

function fullDisk(disk: string, db: Database.Database): Exhaustion {
  const filler = join(disk, 'filler')
  return {
    async begin() {
      // As long as its log has pages to use again, SQLite needs no room.
      await until(() => db.pragma('wal_checkpoint(TRUNCATE)', { simple: true }) === 0)
      const { bavail, bsize } = statfsSync(disk)
      writeFileSync(filler, Buffer.alloc(bavail * bsize))
    },
    end: () => rmSync(filler),
  }
}

/** The limit is one of the connection, not of the file. */
function fullDatabase({ opened }: Stage): Exhaustion {
  const limit = (pages: number): Promise<unknown> =>
    opened.outbox.transaction((tx) => (tx as Database.Database).pragma(`max_page_count = ${pages}`))
  return { begin: () => limit(1), end: () => limit(1_000_000) }
}

onServers('maxmemory', { ...ROUNDS, adapters: ['redis'] }, async (_, { amount, skip }) => {
  const server = await startOwnServer('redis')
  if (!server) return skip('no server of its own')
  const stage = await enter('redis', server.url)
  const client = new Redis(server.url)
  try {
    return await exhausted(stage, amount, {
      begin: () => client.config('SET', 'maxmemory', '1'),
      end: () => client.config('SET', 'maxmemory', '0'),
    })
  } finally {
    client.disconnect()
    await stage.leave()
    await server.stop()
  }
})

for (const setting of ['statement_timeout', 'lock_timeout']) {
  scenario(
    setting.replace('_', ' '),
    { ...ROUNDS, adapters: ['postgres-drizzle', 'postgres-prisma'] },
    async (stage, { url, amount }) => {
      const options = new URLSearchParams({ options: `-c ${setting}=100` })
      const opened = await stage.open({}, `${url}?${options}`)
      const rival = new pg.Client(url)
      await rival.connect()
      try {
        const exhaustion = {
          begin: () => rival.query(`BEGIN; LOCK TABLE ${stage.place}.outbox_events`),
          end: () => rival.query('ROLLBACK'),
        }
        return await exhausted(stage, amount, exhaustion, opened)
      } finally {
        await rival.end()
      }
    },
  )
}

function asRoot(command: string, ...args: readonly string[]): number | null {
  return process.getuid?.() === 0
    ? spawnSync(command, args).status
    : spawnSync('sudo', ['-n', command, ...args]).status
}
