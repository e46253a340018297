import { InMemoryOutbox, type InMemoryTransaction } from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import type { Backend } from '../src/testing/index.ts'

export const memoryBackend: Backend<InMemoryTransaction> = {
  name: 'in memory',
  traits: { singleClient: true },
  async open(options) {
    const outbox = new InMemoryOutbox(options)
    const storage = outbox.storage as InMemoryStorage
    const rows: string[] = []
    const payload = (id: string) => storage.payloads.get(id) ?? fail(`no payload ${id}`)
    return {
      outbox,
      sibling: async () => outbox,
      writeBusinessRow: (tx, key) => tx.onCommit(() => rows.push(key)),
      businessRows: async () => rows,
      async ownTransaction(work) {
        const tx = outbox.begin()
        try {
          await work(tx)
          outbox.commit(tx)
        } finally {
          outbox.rollback(tx)
        }
      },
      events: async () =>
        [...storage.events.values()].map(({ id, type, body, headers, state, attempt }) => {
          return { id, type, body, headers, state, attempt }
        }),
      payloads: async () => [...storage.payloads].map(([id, stored]) => ({ id, ...stored })),
      async overwritePayload(id, data) {
        payload(id).data = data
      },
      async expirePayload(id) {
        payload(id).expiresAt = 0
      },
      async expireLeases() {
        for (const event of storage.events.values()) {
          if (event.state === 'leased') storage.reschedule(event, 0)
        }
      },
      roundTrips: () => 0,
      connections: async () => 0,
      destroy: () => outbox.close(),
    }
  },
}

function fail(message: string): never {
  throw new Error(message)
}
