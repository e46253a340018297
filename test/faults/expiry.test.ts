import { setTimeout as sleep } from 'node:timers/promises'
import { claimCheck, type Duration, type Outbox, OutboxEventBus } from 'outbox-core'
import { expect } from 'vitest'
import { scenario } from './scenario.ts'
import { drained, type Stage, until } from './stage.ts'

interface Events {
  'payload.read': { number: number; pad: string }
}

const AT_ONCE = 300
const pad = 'p'.repeat(12_000)

// Nothing of ours deletes expired payloads meanwhile: no purge is due within an hour, and what MongoDB and DynamoDB
// delete by themselves takes longer than this. Redis deletes at once; that is its promise.
scenario(
  'payload expires',
  { short: 1_000, shortOnDynamoDB: 100, long: 10_000 },
  async (stage, { amount }) => {
    const { opened } = stage
    const each = Math.floor(amount / 3)
    for (let left = each; left > 0; left -= AT_ONCE) {
      const count = Math.min(left, AT_ONCE)
      await expiredBefore(stage, count)
      await expiresDuring(stage, count)
      await outlives(stage, count)
    }
    await opened.outbox.sagaStore('1d').cleanup()
    const { dead, payloads } = await opened.contents()
    expect({ dead, payloads }).toEqual({ dead: each, payloads: [] })
    return { 'expired before': dead, during: each, 'lived on': each }
  },
)

async function expiredBefore({ opened, adapter }: Stage, count: number): Promise<void> {
  const already = (await opened.contents()).dead
  await emit(busOn(opened.outbox, 50), count)
  // DynamoDB keeps whole seconds, rounded up.
  await sleep(adapter === 'dynamodb' ? 1_100 : 60)
  let ran = 0
  const bus = busOn(opened.outbox).on('payload.read', () => void ran++)
  await bus.start()
  await until(async () => (await opened.contents()).dead === already + count, 100)
  await bus.stop()
  expect(ran).toBe(0)
  expect((await opened.outbox.deadLetters.list()).letters[0]?.error).toContain('expired')
}

/** The payload is there when the handler begins, and is not when it ends. */
async function expiresDuring({ opened, open }: Stage, count: number): Promise<void> {
  const reader = (await open()).outbox.sagaStore('1d')
  const bus = busOn(opened.outbox, 3_000)
  await emit(bus, count)
  const begun: number[] = []
  const ended = new Set<number>()
  bus.on('payload.read', async ({ payload, headers }) => {
    begun.push(payload.number)
    await until(() => begun.length === count)
    while (await reader.get(headers['outbox-claim'] ?? '')) await sleep(100)
    ended.add(payload.number)
  })
  await bus.start()
  await drained(opened)
  await bus.stop()
  expect([begun.length, ended.size]).toEqual([count, count])
}

async function outlives({ opened }: Stage, count: number): Promise<void> {
  const bus = busOn(opened.outbox)
  await emit(bus, count)
  const seen = new Set<number>()
  bus.on('payload.read', ({ payload }) => void seen.add(payload.number))
  await bus.start()
  await drained(opened)
  await bus.stop()
  expect(seen.size).toBe(count)
}

function busOn(outbox: Outbox, ttl: Duration = '1d'): OutboxEventBus<Events> {
  return new OutboxEventBus<Events>(outbox, {
    retry: { maxAttempts: 1 },
    purgeInterval: '1h',
    concurrency: AT_ONCE,
    poll: { max: 50 },
  }).use(claimCheck(outbox.sagaStore('1d'), { ttl }))
}

async function emit(bus: OutboxEventBus<Events>, count: number): Promise<void> {
  for (let from = 0; from < count; from += 20) {
    const numbers = Array.from({ length: Math.min(20, count - from) }, (_, index) => from + index)
    await bus.emitMany(numbers.map((number) => ({ type: 'payload.read', payload: { number, pad } })))
  }
}
