/** A process that emits or works until it is killed: node test/faults/generated/process.mjs SETTINGS */
import { appendFileSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import type { BusOptions } from 'outbox-core'
import { ADAPTERS, type AdapterName } from './adapters/index.ts'
import type { Fatality, Stalling } from './points.ts'
import { ROLES, type Role } from './roles.ts'

/** What the process is to do; its one argument, as JSON. */
export interface ProcessSettings {
  readonly role: Role
  readonly adapter: AdapterName
  readonly url: string
  readonly place: string
  readonly ledger: string
  /** Number of the first slip, or of the first round. */
  readonly first?: number
  readonly bus?: Pick<BusOptions, 'lease' | 'concurrency' | 'batchSize'>
  /** Where it kills itself. */
  readonly fatality?: Fatality
  /** What its first activity of each round does. */
  readonly stall?: Stalling
}

if (process.argv[1] === import.meta.filename) await main(JSON.parse(process.argv[2] ?? ''))

async function main(settings: ProcessSettings): Promise<void> {
  const { adapter, url, place, role, ledger } = settings
  const { open } = await ADAPTERS[adapter].load()
  // Node writes its cache when a process ends by itself, which these don't.
  flushCompileCache()
  const note = (line: string): void => appendFileSync(ledger, `${line}\n`)
  await ROLES[role]({ opened: await open(url, place), settings, note })
}
