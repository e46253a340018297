import type { Opened } from './adapters/adapter.ts'
import { emitOrdered, workOrdered } from './ordered.ts'
import { Stall, Watch } from './points.ts'
import { poisonedOn } from './poison.ts'
import { sagasOn } from './sagas.ts'
import type { ProcessSettings, Role } from './settings.ts'
import { slowOn } from './slow.ts'

interface Part {
  readonly opened: Opened
  readonly settings: ProcessSettings
  readonly note: (line: string) => void
}

/** What a process can be told to do. */
export const ROLES: Readonly<Record<Role, (part: Part) => Promise<void>>> = {
  emit,
  work,
  poison,
  drain,
  'order-emit': emitInOrder,
  'order-work': workInOrder,
}

async function emit({ opened: { outbox, write }, settings, note }: Part): Promise<void> {
  const { engine, slip } = sagasOn(outbox, settings.ledger)
  note(`ready ${process.pid}`)
  for (let number = settings.first ?? 0; ; number++) {
    const id = `slip-${number}`
    note(`attempted ${id}`)
    await outbox.transaction(async (tx) => {
      await write(tx, id)
      await engine.emit(slip(id))
    })
    note(`acknowledged ${id}`)
  }
}

async function work({ opened: { outbox }, settings, note }: Part): Promise<void> {
  const { bus: options, fatality, stall: stalling, ledger } = settings
  const watch = new Watch(outbox, note, fatality)
  const stall = stalling && new Stall(note, ledger, stalling)
  const { bus } = sagasOn(outbox, ledger, {
    bus: options,
    async midway(phase, slipId) {
      watch.reached(phase === 'execute' ? 'executing' : 'compensating')
      await stall?.inActivity(slipId)
    },
  })
  await bus.use(watch).start()
  note(`ready ${process.pid}`)
}

async function poison({ opened: { outbox }, settings, note }: Part): Promise<void> {
  await poisonedOn(outbox, note, settings.adapter).start()
  note(`ready ${process.pid}`)
}

/** Ends by itself after a SIGTERM: nobody calls process.exit. */
async function drain({ opened, settings, note }: Part): Promise<void> {
  const { bus, stop } = slowOn(opened.outbox, note, settings.first ?? 0)
  process.once('SIGTERM', async () => {
    await stop()
    await opened.close()
  })
  await bus.start()
  note(`ready ${process.pid}`)
}

async function emitInOrder({ opened, settings, note }: Part): Promise<void> {
  note(`ready ${process.pid}`)
  const { first = 0, many = 0 } = settings
  await emitOrdered(opened, note, { first, many })
}

async function workInOrder({ opened: { outbox }, note }: Part): Promise<void> {
  await workOrdered(outbox, note).start()
  note(`ready ${process.pid}`)
}
