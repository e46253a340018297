import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { assertStored } from './ledger.ts'
import { inParallel } from './load.ts'
import { scenario } from './scenario.ts'
import { kill, until } from './stage.ts'

// Most of a process's short life is its start: several start while another one is killed.
const WIDTH = 4

// More than any of them emits.
const IDS_OF_A_PROCESS = 1_000_000

scenario(
  'emitter killed',
  { short: 60, long: 2_000 },
  async ({ opened, ledger, start }, { amount, random }) => {
    await inParallel(amount, WIDTH, async (number) => {
      const child = await start('emit', { first: number * IDS_OF_A_PROCESS })
      const own = (id: string): boolean => Math.floor(Number(id.slice(5)) / IDS_OF_A_PROCESS) === number
      await until(() => ledger.noted('acknowledged').some(own))
      await sleep(random() * 20)
      await kill(child)
    })
    const contents = await opened.contents()
    assertStored(ledger, contents)
    expect(ledger.noted('acknowledged').length).toBeGreaterThanOrEqual(amount)
    return {
      kills: amount,
      acknowledged: ledger.noted('acknowledged').length,
      stored: contents.events.length,
    }
  },
)
