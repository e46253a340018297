import { type ChainableCommander, Redis } from 'ioredis'
import type { Outbox } from 'outbox-core'
import { RedisIoredisOutbox } from 'outbox-redis-ioredis'
import { headersOf, type Open, PATIENCE_MS } from './adapter.ts'
import type { DriverFaults } from './driver-faults.ts'

export const open: Open = async (url, prefix, { poolSize: _one, impatient, faults, ...options } = {}) => {
  const client = new Redis(url, impatient ? { socketTimeout: PATIENCE_MS } : {})
  client.on('error', () => {})
  if (faults) makeFaulty(client, faults)
  const outbox = new RedisIoredisOutbox<ChainableCommander>(client, { prefix, logger: false, ...options })
  const key = (name: string): string => `{${prefix}}:${name}`
  return {
    outbox: outbox as unknown as Outbox,
    prepare: () => outbox.initialize(),
    write: (tx, row) => void (tx as ChainableCommander).rpush(key('rows'), row),
    async contents() {
      const events = await Promise.all(
        (await client.keys(key('event:*'))).map((name) => client.hmget(name, 'headers', 'state')),
      )
      const open = events.filter(([, state]) => state === 'waiting' || state === 'leased')
      return {
        rows: await client.lrange(key('rows'), 0, -1),
        events: open.map(([headers]) => headersOf(headers)),
        dead: events.filter(([, state]) => state === 'dead').length,
        payloads: (await client.keys(key('saga:*'))).map((name) => name.slice(key('saga:').length)),
      }
    },
    async close() {
      await outbox.close()
      client.disconnect()
    },
  }
}

function makeFaulty(client: Redis, faults: DriverFaults): void {
  const around = <R>(call: () => Promise<R>): Promise<R> =>
    faults.around(
      call,
      () =>
        faults.oneOf(
          new Error("READONLY You can't write against a read only replica."),
          new Error('LOADING Redis is loading the dataset in memory'),
          new Error('Connection is closed.'),
        ),
      () => new Error('Command timed out'),
    )
  for (const command of ['eval', 'evalsha', 'getBuffer', 'set'] as const) {
    const original = client[command].bind(client) as (...parameters: unknown[]) => Promise<unknown>
    client[command] = ((...parameters: unknown[]) => around(() => original(...parameters))) as never
  }
  for (const kind of ['multi', 'pipeline'] as const) {
    const begin = client[kind].bind(client) as () => ChainableCommander
    client[kind] = (() => {
      const tx = begin()
      const exec = tx.exec.bind(tx)
      tx.exec = () => around(() => exec())
      return tx
    }) as never
  }
}
