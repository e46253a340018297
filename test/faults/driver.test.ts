import { expect } from 'vitest'
import { DriverFaults } from './adapters/driver-faults.ts'
import { repeatedAttempts } from './ledger.ts'
import { Emitter, Load, settledAsTold } from './load.ts'
import { sagasOn } from './sagas.ts'
import { scenario } from './scenario.ts'
import { until } from './stage.ts'

scenario(
  'driver fails',
  { short: 5_000, shortOnDynamoDB: 2_500, long: 50_000 },
  async (stage, { amount, random }) => {
    const { ledger, open } = stage
    const faults = new DriverFaults(random)
    const opened = await open({ faults })
    const sagas = sagasOn(opened.outbox, ledger.file)
    const emitter = new Emitter(opened, sagas)
    await sagas.bus.start()
    const load = new Load(emitter)
    await load.during(until(() => faults.calls >= amount))
    await load.stop()
    await settledAsTold(stage, load.slips)
    await sagas.bus.stop()
    expect(faults.refused).toBeGreaterThan(0)
    return {
      calls: faults.calls,
      'refused calls': faults.refused,
      'unanswered calls': faults.unanswered,
      emits: load.emits,
      'repeated attempts': repeatedAttempts(ledger),
    }
  },
)
