import { expect } from 'vitest'
import { SECRET } from './leaks.ts'
import { assertHandled, repeatedAttempts } from './ledger.ts'
import { emitSlips, settled } from './load.ts'
import { sagasOn } from './sagas.ts'
import { scenario } from './scenario.ts'
import { type Stage, until } from './stage.ts'

// A slip is a step, three more, and its end.
const EVENTS_OF_A_SLIP = 5

scenario('four workers', { short: 6_000, shortOnDynamoDB: 800, long: 100_000 }, async (stage, { amount }) => {
  const { ledger, start } = stage
  const slips = Array.from({ length: amount / 100 }, (_, index) => `slip-${index}${index % 2 ? 3 : 0}`)
  // No process dies, and none shall lose a lease for being slow: whatever ran twice was leased twice.
  const bus = { lease: '5m' } as const
  await Promise.all([0, 1, 2, 3].map(() => start('work', { bus })))
  await emitSlips(stage, slips)
  const plain = await emitPlain(stage, amount - slips.length * EVENTS_OF_A_SLIP)
  await until(() => ledger.noted('handled').length >= plain && ledger.ended().size === slips.length)
  await settled(stage, slips)
  assertHandled(ledger)
  expect([repeatedAttempts(ledger), ledger.noted('handled').length]).toEqual([0, plain])
  return { slips: slips.length, 'plain events': plain, 'repeated attempts': 0 }
})

async function emitPlain({ opened, ledger }: Stage, count: number): Promise<number> {
  const { bus, note } = sagasOn(opened.outbox, ledger.file)
  for (let from = 0; from < count; from += 50) {
    const ids = Array.from({ length: Math.min(50, count - from) }, (_, index) => `plain-${from + index}`)
    note(ids.map((id) => `attempted ${id}`).join('\n'))
    await bus.emitMany(ids.map((id) => ({ type: 'plain', payload: { id, version: 0, secret: SECRET } })))
    note(ids.map((id) => `acknowledged ${id}`).join('\n'))
  }
  return count
}
