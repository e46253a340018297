/** A process that emits or works until it is killed: node test/faults/generated/process.mjs SETTINGS */
import { appendFileSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import { ADAPTERS } from './adapters/index.ts'
import { ROLES } from './roles.ts'
import type { ProcessSettings } from './settings.ts'

if (process.argv[1] === import.meta.filename) await main(JSON.parse(process.argv[2] ?? ''))

async function main(settings: ProcessSettings): Promise<void> {
  const { adapter, url, place, role, ledger } = settings
  const { open } = await ADAPTERS[adapter].load()
  // Node writes its cache when a process ends by itself, which these don't.
  flushCompileCache()
  const note = (line: string): void => appendFileSync(ledger, `${line}\n`)
  await ROLES[role]({ opened: await open(url, place), settings, note })
}
