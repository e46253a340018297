import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { scenario } from './scenario.ts'
import { SLOW, slowOn } from './slow.ts'
import { drained, end, type Stage, until } from './stage.ts'

const PROCESSES = 5
const EVENTS_OF_A_ROUND = 45

// What stop waits for handlers, what it waits for those who ignore their signal, and some time for two busy cores.
const BOUND_MS = 200 + 1_000 + 30_000

scenario('SIGTERM', { short: 20, long: 200 }, async (stage, { amount, random }) => {
  const { opened, ledger, start } = stage
  const ids: string[] = []
  const slowest = { exit: 0, handover: 0 }
  const rounds = amount / PROCESSES
  for (let round = 0; round < rounds; round++) {
    const children = await Promise.all(
      Array.from({ length: PROCESSES }, () => start('drain', { first: round })),
    )
    slowest.handover = Math.max(slowest.handover, await handedOver(stage, ids))
    ids.push(...(await emitSlow(stage, round)))
    const begun = (): number => ledger.noted('began').filter((note) => note.startsWith(`${round}-`)).length
    await until(() => begun() >= EVENTS_OF_A_ROUND / 3)
    await sleep(random() * 50)
    slowest.exit = Math.max(
      slowest.exit,
      await milliseconds(() => {
        for (const child of children) child.kill('SIGTERM')
        return Promise.all(children.map(end))
      }),
    )
    expect(children.map(({ exitCode }) => exitCode)).toEqual(children.map(() => 0))
    // Each of them may have had three left that never end by themselves.
    expect((await opened.contents()).events.length).toBeGreaterThan(0)
  }
  const last = slowOn(opened.outbox, (line) => ledger.note(line), rounds).bus
  await last.start()
  slowest.handover = Math.max(slowest.handover, await handedOver(stage, ids))
  await drained(opened)
  await last.stop()
  expect(slowest.exit).toBeLessThan(BOUND_MS)
  expect(ledger.noted('handled').toSorted()).toEqual(ids.toSorted())
  expect(ledger.noted('began').filter((note) => !note.endsWith(' 1'))).toEqual([])
  const { exit, handover } = slowest
  return {
    SIGTERMs: amount,
    events: ids.length,
    'given back': ledger.noted('began').length - ids.length,
    'ms to the slowest exit': Math.round(exit),
    'ms to the last handover': Math.round(handover),
  }
})

async function emitSlow({ opened }: Stage, round: number): Promise<readonly string[]> {
  const { bus } = slowOn(opened.outbox, () => {}, round)
  const ids = Array.from({ length: EVENTS_OF_A_ROUND }, (_, number) => `${round}-${number}`)
  for (const [number, id] of ids.entries()) {
    await bus.emit(SLOW[number % SLOW.length] ?? 'slow.brief', { id, round })
  }
  return ids
}

/** How long it takes until what earlier rounds left is handled: their leases would last for minutes. */
function handedOver({ ledger }: Stage, ids: readonly string[]): Promise<number> {
  return milliseconds(() => until(() => new Set(ledger.noted('handled')).size === ids.length))
}

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now()
  await work()
  return performance.now() - since
}
