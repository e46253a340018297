import { expect } from 'vitest'
import { assertHandled } from './ledger.ts'
import { POISONS, poisonedOn } from './poison.ts'
import { scenario } from './scenario.ts'
import { ended, kill, type Stage, until } from './stage.ts'

const HEALTHY_FOR_ONE = 5

scenario('poison events', { short: 20, long: 200 }, async (stage, { amount, random }) => {
  const { opened, ledger, start } = stage
  const names = await emitMixed(stage, amount, random)
  const open = async (): Promise<boolean> => (await opened.contents()).events.length > 0
  let deaths = 0
  while (await open()) {
    const worker = await start('poison')
    await until(async () => ended(worker) || !(await open()), 100)
    if (ended(worker)) deaths++
    await kill(worker)
  }
  const { letters } = await opened.outbox.deadLetters.list({ limit: 1_000 })
  const dead = letters.map(({ id }) => names.get(id) ?? id)
  expect(dead.toSorted()).toEqual([...names.values()].filter((name) => name.startsWith('poison')).toSorted())
  assertHandled(ledger)
  expect(deaths).toBeGreaterThan(0)
  return {
    poisons: amount,
    healthy: ledger.noted('acknowledged').length,
    deaths,
    'dead letters': dead.length,
  }
})

/** Poisons and healthy events in random order. Returns what they are called, by event id. */
async function emitMixed(
  { adapter, opened, ledger }: Stage,
  amount: number,
  random: () => number,
): Promise<ReadonlyMap<string, string>> {
  const bus = poisonedOn(opened.outbox, () => {}, adapter)
  const names = new Map<string, string>()
  const poisons = Array.from({ length: amount }, (_, number) => ({
    type: POISONS[number % POISONS.length] ?? 'poison.throw',
    payload: { id: `poison-${number}` },
  }))
  const healthy = Array.from({ length: amount * HEALTHY_FOR_ONE }, (_, number) => ({
    type: 'healthy' as const,
    payload: { id: `healthy-${number}` },
  }))
  const places = new Map([...poisons, ...healthy].map((event) => [event, random()]))
  const mixed = [...places.keys()].toSorted((one, other) => (places.get(one) ?? 0) - (places.get(other) ?? 0))
  for (const event of mixed) {
    const { id } = event.payload
    if (event.type === 'healthy') ledger.note(`attempted ${id}`)
    const [eventId = ''] = await bus.emitMany([event])
    names.set(eventId, id)
    if (event.type === 'healthy') ledger.note(`acknowledged ${id}`)
  }
  return names
}
