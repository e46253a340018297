/** A process that emits or works until it is killed: node test/faults/process.ts ROLE ADAPTER URL PLACE LEDGER FIRST */
import { ADAPTERS } from './adapters.ts'
import { sagasOn } from './sagas.ts'

const [, , role, name, url = '', place = '', ledger = '', first = '0'] = process.argv
const adapter = ADAPTERS.find((candidate) => candidate.name === name)
if (!adapter) throw new Error(`no adapter ${name}`)
const { outbox, write } = await adapter.open(url, place)
const { bus, engine, slip, note } = sagasOn(outbox, ledger)

if (role === 'emit') {
  note('ready')
  for (let number = Number(first); ; number++) {
    const id = `slip-${number}`
    note(`attempted ${id}`)
    await outbox.transaction(async (tx) => {
      await write(tx, id)
      await engine.emit(slip(id))
    })
    note(`acknowledged ${id}`)
  }
}
await bus.start()
note('ready')
