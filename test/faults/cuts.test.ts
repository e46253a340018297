import { expect } from 'vitest'
import { ADAPTER_NAMES, ADAPTERS, type FaultAdapter } from './adapters/index.ts'
import { repeatedAttempts } from './ledger.ts'
import { Emitter, Load, settledAsTold } from './load.ts'
import { FaultyNetwork } from './proxy.ts'
import { sagasOn } from './sagas.ts'
import { onServers } from './scenario.ts'
import { enter, until } from './stage.ts'

const SERVED = ADAPTER_NAMES.filter((name) => (ADAPTERS[name] as FaultAdapter).server !== undefined)

/** What a client sends to commit its transaction, and what it sends for a write of its own. */
const COMMANDS = {
  postgres: { commit: /\bcommit\b/i, write: /\bINSERT INTO\b/ },
  redis: { commit: /\$4\r\nexec\r\n/i, write: /\$7\r\nevalsha\r\n/i },
  mongodb: { commit: /commitTransaction/, write: /\bupdate\b/ },
  dynamodb: { commit: /TransactWriteItems/, write: /TransactWriteItems|UpdateItem/ },
} as const

// A half-open connection costs its clients as long as they are patient: one cut in ten.
const CUTS = [
  ...(['commit', 'commit', 'commit', 'commit', 'write', 'write', 'write'] as const),
  ...(['reset', 'reset', 'half-open'] as const),
]

onServers(
  'connection cut',
  { short: 50, long: 1_000, adapters: SERVED },
  async (url, { adapter, amount, random }) => {
    const stage = await enter(adapter, url)
    const network = await FaultyNetwork.start(url)
    try {
      const { ledger, open } = stage
      const opened = await open({ impatient: true }, network.url)
      const sagas = sagasOn(opened.outbox, ledger.file)
      const emitter = new Emitter(opened, sagas)
      await sagas.bus.start()
      const load = new Load(emitter, { pauseMs: 20 })
      const { server = 'redis' }: FaultAdapter = ADAPTERS[adapter]
      let answersCut = 0
      for (let cuts = 0; cuts < amount; cuts++) {
        const before = emitter.acknowledged
        const cut = CUTS[Math.floor(random() * CUTS.length)]
        if (cut === 'reset') network.reset()
        else if (cut === 'half-open') network.freeze()
        else {
          await load.during(network.cutAnswer(COMMANDS[server][cut ?? 'commit']))
          answersCut++
        }
        await load.during(until(() => emitter.acknowledged > before))
      }
      await load.stop()
      await settledAsTold(stage, load.slips)
      await sagas.bus.stop()
      // How many callers hear of an unknown outcome is up to chance: drivers repeat, and workers' writes are cut as well.
      expect(answersCut).toBeGreaterThan(0)
      return {
        cuts: amount,
        'answers cut': answersCut,
        emits: load.emits,
        refused: emitter.refused,
        unknown: emitter.unknown,
        'repeated attempts': repeatedAttempts(ledger),
      }
    } finally {
      await stage.leave()
      await network.close()
    }
  },
)
