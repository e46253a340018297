import { setTimeout as sleep } from 'node:timers/promises'
import { type HandlerContext, InMemoryOutbox, OutboxEventBus } from '../src/index.ts'

type Events = Record<string, unknown>

const BAD = { big: 1n }

/** Handlers each of which leaves something behind that nobody handles. */
const HANDLERS: Readonly<
  Record<string, (context: HandlerContext<Events>, bus: OutboxEventBus<Events>) => unknown>
> = {
  voided({ emit }) {
    void emit('late', {})
    void emit('note', BAD)
    throw new Error('no')
  },
  goneOnFrom({ emit }) {
    void emit('note', BAD).then(String)
    void emit('late', {})
      .finally(() => {})
      .then(String)
  },
  async held({ emit }) {
    const held = emit('note', BAD)
    await sleep(5)
    await held
  },
  late({ emit }) {
    void emit('late', {})
  },
  async afterItsEnd({ emit }) {
    setTimeout(() => void emit('note', {}), 5)
    setTimeout(() => void emit('note', BAD).then(String), 5)
    throw new Error('no')
  },
  transaction(_, bus) {
    return bus.outbox.transaction(() => {
      void bus.emit('late', {}).then(String)
      void bus.emit('note', BAD)
    })
  },
  oddErrors() {
    throw Object.assign(new Error('no'), { message: null, name: 7, code: Symbol('odd') })
  },
  async ofTheUser() {
    void Promise.reject(new Error('of the user'))
  },
}

const outbox = new InMemoryOutbox({ logger: false })
const bus = new OutboxEventBus<Events>(outbox, { retry: { maxAttempts: 2, delay: 1 }, poll: { max: 20 } })
bus.use({
  async emit({ type }) {
    if (type !== 'late') return
    await sleep(10)
    throw new Error('refused late')
  },
})
const handler = HANDLERS[process.argv[2] ?? '']
if (!handler) throw new Error('which one?')
let handled = 0
bus.on('test', (_, context) => handler(context, bus))
bus.on('other', () => void handled++)
await bus.start()
await bus.emit('test', {})
while ((await outbox.stats()).dead === 0) await sleep(5)
await bus.emit('other', {})
await sleep(100)
await bus.stop()
const { dead, due, leased } = await outbox.stats()
if (due + leased > 0) throw new Error('something was stored by an attempt that failed')
console.log(`the process lives: ${dead} dead, ${handled} handled`)
