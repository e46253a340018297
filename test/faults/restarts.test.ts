import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { type OwnServer, startOwnServer } from '../servers/index.ts'
import { ADAPTER_NAMES, ADAPTERS, type FaultAdapter } from './adapters/index.ts'
import { repeatedAttempts } from './ledger.ts'
import { Emitter, inParallel, settledAsTold } from './load.ts'
import { sagasOn } from './sagas.ts'
import { onServers } from './scenario.ts'
import { enter, until } from './stage.ts'

const SERVED = ADAPTER_NAMES.filter((name) => (ADAPTERS[name] as FaultAdapter).server !== undefined)

// A slip is a step, three more, and its end: what is not part of one is a plain event.
const EVENTS_OF_A_SLIP = 5

onServers(
  'server killed',
  { short: 5_000, shortOnDynamoDB: 50, long: 100_000, adapters: SERVED },
  async (_, { adapter, amount, random, skip }) => {
    const { server: kind }: FaultAdapter = ADAPTERS[adapter]
    const server = kind && (await startOwnServer(kind))
    if (!server) return skip('no server of its own')
    const count = amount / (EVENTS_OF_A_SLIP + 5)
    const stage = await enter(adapter, server.url)
    try {
      const { ledger, opened, start } = stage
      const worker = await start('work')
      const emitter = new Emitter(opened, sagasOn(opened.outbox, ledger.file))
      const slips = Array.from({ length: count }, (__, number) => `slip-${number}`)
      const total = count * 6
      const kills = Math.max(3, Math.round(amount / 1_000))
      await Promise.all([
        inParallel(total, 8, (number) => {
          return number % 6 === 0 ? emitter.slip(`slip-${number / 6}`) : emitter.plain(`plain-${number}`)
        }),
        killAgainAndAgain(
          server,
          kills,
          (number) => emitter.acknowledged >= (total * number) / kills,
          random,
        ),
      ])
      await settledAsTold(stage, slips)
      expect(worker.exitCode).toBeNull()
      return {
        kills,
        emits: total,
        refused: emitter.refused,
        unknown: emitter.unknown,
        'repeated attempts': repeatedAttempts(ledger),
      }
    } finally {
      await stage.leave()
      await server.stop()
    }
  },
)

/** The last time when everything is emitted, and the rest is being worked on. */
async function killAgainAndAgain(
  server: OwnServer,
  kills: number,
  reached: (number: number) => boolean,
  random: () => number,
): Promise<void> {
  for (let number = 1; number <= kills; number++) {
    await until(() => reached(number))
    await server.kill()
    await sleep(random() * 200)
    await server.restart()
  }
}
