import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { atRate, machineMs } from './clock.ts'
import { armsOf } from './contender.ts'
import { databases } from './databases/index.ts'

/** Events 0 to `count` - 1, emitted at a steady rate. */
export interface Emission {
  readonly database: string
  readonly arm: string
  readonly place: string
  /** Events a second. */
  readonly rate: number
  readonly count: number
  /** Most events of one write; those of one millisecond share one. */
  readonly batch: number
}

/** Emits in a process of its own. Returns how many milliseconds it took. */
export async function emitElsewhere(emission: Emission): Promise<number> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(emission)])
  let ms = Number.NaN
  child.on('message', (message) => {
    ms = message as number
  })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`the emitting process ended with ${code}`)
  return ms
}

async function emitHere({ database, arm, place, rate, count, batch }: Emission): Promise<number> {
  const opened = await databases.get(database)?.()
  const contender = await (opened && armsOf(opened).get(arm))?.open({ place, listen: true })
  if (!contender) throw new Error(`there is no arm ${arm} of ${database}`)
  const started = machineMs()
  await atRate(rate, count, async (from, due) => {
    const at = machineMs()
    const payloads = Array.from({ length: due }, (_, index) => ({ n: from + index, at }))
    if (batch === 1) {
      await Promise.all(payloads.map((payload) => contender.emit(payload)))
      return
    }
    for (let sent = 0; sent < due; sent += batch) await contender.emitMany(payloads.slice(sent, sent + batch))
  })
  const ms = machineMs() - started
  await contender.close()
  return ms
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const ms = await emitHere(JSON.parse(process.argv[2] ?? '') as Emission)
  process.send?.(ms, () => process.exit())
}
