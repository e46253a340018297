import type { ChildProcess } from 'node:child_process'
import { expect } from 'vitest'
import { findings } from './ordered.ts'
import { scenario } from './scenario.ts'
import { drained, kill, until } from './stage.ts'

const EMITTERS = 2
const WORKERS = 4

// More than any of them emits.
const IDS_OF_A_PROCESS = 1_000_000

const ROUNDS = 4

scenario(
  'order per key',
  { short: 400, shortOnDynamoDB: 120, long: 100_000 },
  async ({ opened, ledger, start }, { amount, random }) => {
    let emitters = 0
    const many = Math.ceil(amount / ROUNDS / EMITTERS)
    const emitter = (): Promise<ChildProcess> =>
      start('order-emit', { first: emitters++ * IDS_OF_A_PROCESS, many })
    const workers = await Promise.all(Array.from({ length: WORKERS }, () => start('order-work')))
    const acknowledged = (): number => ledger.noted('acknowledged').length
    const killed = async (child: ChildProcess): Promise<void> => {
      await kill(child)
      ledger.note(`killed ${child.pid}`)
    }
    for (let round = 0; round < ROUNDS; round++) {
      const before = acknowledged()
      const [doomed, ...others] = await Promise.all(Array.from({ length: EMITTERS }, emitter))
      await until(() => acknowledged() - before >= many * random())
      await killed(doomed as ChildProcess)
      const which = Math.floor(random() * WORKERS)
      await killed(workers[which] as ChildProcess)
      workers[which] = await start('order-work')
      await until(() => others.every(({ pid }) => ledger.noted('done').includes(`${pid}`)))
    }
    await drained(opened)
    await until(async () => (await opened.outbox.stats()).blocked === 0)
    const { events, lost, inversions, sideBySide } = findings(ledger)
    expect({ lost, inversions, sideBySide }).toEqual({ lost: [], inversions: [], sideBySide: [] })
    expect(await opened.outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
    expect(events).toBeGreaterThanOrEqual(amount / EMITTERS)
    const refused = ledger.noted('refused').length
    return { transactions: acknowledged(), events, kills: 2 * ROUNDS, refused }
  },
)
