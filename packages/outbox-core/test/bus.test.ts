import { Writable } from 'node:stream'
import { runInNewContext } from 'node:vm'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import {
  ConfigurationError,
  DuplicateRegistrationError,
  InMemoryOutbox,
  type Middleware,
  OutboxEventBus,
  SchemaError,
  TimeoutError,
  TransactionClosedError,
} from '../src/index.ts'
import { outage } from '../src/testing/failing.ts'
import { recordingLogger, until } from '../src/testing/index.ts'

interface Events {
  'order.placed': { id: string; cents: number }
  'order.paid': { id: string }
}

/** A Standard Schema by hand: wants cents to be a number, hands on euros. */
const placed: StandardSchemaV1<unknown, Events['order.placed']> = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate(value) {
      const { id, cents } = value as Events['order.placed']
      if (typeof cents === 'number') return { value: { id: id.trim(), cents } }
      return { issues: [{ message: 'not a number', path: ['lines', { key: 0 }, 'cents'] }] }
    },
  },
}

describe('OutboxEventBus', () => {
  test('links event types to their payloads', () => {
    const bus = new OutboxEventBus<Events>(new InMemoryOutbox())
    bus.on('order.placed', ({ payload }) => {
      const cents: number = payload.cents
      return void cents
    })
    const wrong = (): void => {
      // @ts-expect-error the payload of another event
      void bus.emit('order.paid', { cents: 1 })
      // @ts-expect-error no such event
      void bus.emit('order.lost', {})
      // @ts-expect-error ids are not for events that a handler emits
      bus.on('order.paid', (_, { emit }) => void emit('order.paid', { id: 'x' }, { id: 'mine' }))
    }
    expect(wrong).toBeTypeOf('function')
  })

  test('takes one handler for a type', () => {
    const bus = new OutboxEventBus<Events>(new InMemoryOutbox()).on('order.paid', () => {})
    expect(() => bus.on('order.paid', () => {})).toThrow(DuplicateRegistrationError)
  })

  test('names the option that can’t work, and its value', () => {
    const outbox = new InMemoryOutbox()
    const refused: [object, RegExp][] = [
      [{ concurrency: 0 }, /"concurrency" is 0/],
      [{ batchSize: 1.5 }, /"batchSize" is 1.5/],
      [{ lease: '1s', heartbeat: 500 }, /"heartbeat" is 500: it must be shorter than half the lease/],
      [{ lease: Number.NaN }, /"lease" is NaN/],
      [{ handlerTimeout: -1 }, /"handlerTimeout"/],
      [{ retention: 'forever' }, /"retention" is "forever"/],
      [{ poll: { min: '2s', max: '1s' } }, /"poll.max"/],
      [{ retry: { maxAttempts: 0 } }, /"retry.maxAttempts" is 0/],
      [{ retry: { delay: '10s', maxDelay: '1s' } }, /"retry.maxDelay"/],
      [{ retry: { jitter: 2 } }, /"retry.jitter" is 2/],
    ]
    for (const [options, message] of refused) {
      expect(() => new OutboxEventBus(outbox, options)).toThrow(ConfigurationError)
      expect(() => new OutboxEventBus(outbox, options)).toThrow(message)
    }
    expect(() => new InMemoryOutbox({ maxEventBytes: 0 })).toThrow(/maxEventBytes/)
  })

  test('checks payloads by their schema on emit, and hands its output to the handler', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const bus = new OutboxEventBus<Events>(outbox, { schemas: { 'order.placed': placed } })
    const seen: unknown[] = []
    bus.on('order.placed', ({ payload }) => void seen.push(payload))
    const bad = bus.emit('order.placed', { id: 'x', cents: 'TOP-SECRET' as unknown as number })
    await expect(bad).rejects.toThrow(SchemaError)
    await expect(bad).rejects.toThrow(/at \$\.lines\.0\.cents$/)
    await bus.start()
    await Promise.all([bus.emit('order.placed', { id: ' a ', cents: 1 }), bus.waitFor('order.placed')])
    await bus.stop()
    expect(seen).toEqual([{ id: 'a', cents: 1 }])
  })

  test('an event that no longer matches its schema is buried at once', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    await new OutboxEventBus(outbox).emit('order.placed', { cents: 'old' })
    const bus = new OutboxEventBus<Events>(outbox, { schemas: { 'order.placed': placed } })
    bus.on('order.placed', () => {})
    await bus.start()
    await until(async () => (await outbox.stats()).dead === 1)
    await bus.stop()
    expect((await outbox.deadLetters.list()).letters).toMatchObject([{ attempts: 1 }])
  })

  test('middleware goes around both ways, in order', async () => {
    const log: string[] = []
    const layer = (name: string): Middleware => ({
      emit(draft) {
        log.push(`emit ${name}`)
        draft.headers = { ...draft.headers, [name]: 'yes' }
      },
      async handle(delivery, next) {
        log.push(`${name} in ${delivery.headers[name]}`)
        await next()
        log.push(`${name} out`)
      },
    })
    const bus = new OutboxEventBus<Events>(new InMemoryOutbox()).use(layer('first')).use(layer('second'))
    bus.on('order.paid', () => void log.push('handler'))
    await bus.start()
    await Promise.all([bus.emit('order.paid', { id: 'a' }), bus.waitFor('order.paid')])
    await bus.stop()
    expect(log).toEqual([
      ...['emit first', 'emit second'],
      ...['first in yes', 'second in yes', 'handler', 'second out', 'first out'],
    ])
  })

  test('schemas see what middleware made of a payload', async () => {
    const bus = new OutboxEventBus<Events>(new InMemoryOutbox(), { schemas: { 'order.placed': placed } })
    bus.use({
      emit(draft) {
        draft.payload = { ...(draft.payload as object), cents: 1 }
      },
    })
    const without = { id: 'x' } as Events['order.placed']
    await expect(bus.emit('order.placed', without)).resolves.toEqual(expect.any(String))
  })

  test('an emit that comes too late for its transaction reaches no middleware', async () => {
    const outbox = new InMemoryOutbox()
    const reached: string[] = []
    const bus = new OutboxEventBus<Events>(outbox).use({ emit: ({ type }) => void reached.push(type) })
    const ended = Promise.withResolvers<void>()
    let late: Promise<unknown> = Promise.resolve()
    await outbox.transaction(() => {
      late = ended.promise.then(() => bus.emit('order.paid', { id: 'late' }))
    })
    ended.resolve()
    await expect(late).rejects.toThrow(TransactionClosedError)
    expect(reached).toEqual([])
  })

  test('an explicit transaction wins over the ambient one', async () => {
    const outbox = new InMemoryOutbox()
    const bus = new OutboxEventBus<Events>(outbox)
    const other = outbox.begin()
    await outbox.transaction(() => bus.emit('order.paid', { id: 'a' }, { transaction: other }))
    expect(await outbox.stats()).toMatchObject({ due: 0 })
    outbox.commit(other)
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('a bus that is started inside a transaction takes no part in it', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const bus = new OutboxEventBus<Events>(outbox, { retry: { maxAttempts: 1 } })
    bus.on('order.placed', () => outbox.transaction(() => bus.emit('order.paid', { id: 'x' })).then(() => {}))
    bus.on('order.paid', () => {})
    await outbox.transaction(() => bus.start())
    await Promise.all([bus.emit('order.placed', { id: 'x', cents: 1 }), bus.waitFor('order.paid')])
    await bus.stop()
    expect(await outbox.stats()).toMatchObject({ due: 0, dead: 0 })
  })

  test('waitFor fails with its own condition, and the event is completed all the same', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const bus = new OutboxEventBus<Events>(outbox)
    bus.on('order.paid', () => {})
    await bus.start()
    const waiting = bus.waitFor('order.paid', {
      where: () => {
        throw new Error('bad condition')
      },
    })
    await Promise.all([expect(waiting).rejects.toThrow('bad condition'), bus.emit('order.paid', { id: 'a' })])
    await bus.stop()
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0 })
  })

  test('an error of another realm is taken as it is', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const bus = new OutboxEventBus<Events>(outbox, { retry: { maxAttempts: 1 } })
    bus.on('order.paid', () => {
      throw runInNewContext('new TypeError("from elsewhere")')
    })
    await bus.emit('order.paid', { id: 'a' })
    await bus.start()
    await until(async () => (await outbox.stats()).dead === 1)
    await bus.stop()
    expect((await outbox.deadLetters.list()).letters[0]?.error).toBe('TypeError: from elsewhere')
  })

  test('waitFor gives up after its timeout', async () => {
    const bus = new OutboxEventBus<Events>(new InMemoryOutbox())
    await expect(bus.waitFor('order.paid', { timeout: 10 })).rejects.toThrow(TimeoutError)
  })

  test('logs failures with their event, through a pino logger, and no payload', async () => {
    const lines: string[] = []
    const stream = new Writable({
      write(chunk, _, done) {
        lines.push(String(chunk))
        done()
      },
    })
    const outbox = new InMemoryOutbox({ logger: pino({ level: 'debug' }, stream) })
    const bus = new OutboxEventBus<Events>(outbox, { retry: { maxAttempts: 2, delay: 1 } })
    bus.on('order.paid', (_, { logger }) => {
      logger.info({ step: 1 }, 'from the handler')
      throw new Error('broken')
    })
    await bus.start()
    const id = await bus.emit('order.paid', { id: 'TOP-SECRET' })
    await until(async () => (await outbox.stats()).dead === 1)
    await bus.stop()
    const parsed = lines.map((line) => JSON.parse(line))
    const about = { eventId: id, type: 'order.paid' }
    expect(parsed).toContainEqual(
      expect.objectContaining({ ...about, attempt: 1, step: 1, msg: 'from the handler' }),
    )
    expect(parsed).toContainEqual(
      expect.objectContaining({
        ...about,
        attempt: 1,
        level: 40,
        err: expect.objectContaining({ type: 'Error', message: 'broken' }),
      }),
    )
    expect(parsed).toContainEqual(expect.objectContaining({ ...about, attempt: 2, level: 50 }))
    expect(lines.join()).not.toContain('TOP-SECRET')
  })

  test('goes on when the storage fails for a while', async () => {
    const logger = recordingLogger()
    const outbox = new InMemoryOutbox({ logger })
    const bus = new OutboxEventBus<Events>(outbox, { poll: { max: 10 } })
    const seen: string[] = []
    bus.on('order.paid', ({ payload }) => void seen.push(payload.id))
    await bus.start()
    const { lease, write } = outbox.storage
    let failures = 0
    const failing = async (): Promise<never> => {
      failures++
      throw outage()
    }
    await bus.emit('order.paid', { id: 'a' })
    await until(() => seen.length === 1)
    outbox.storage.lease = failing
    await until(() => failures > 2)
    outbox.storage.lease = lease
    await bus.emit('order.paid', { id: 'b' })
    await until(() => seen.length === 2)
    await bus.emit('order.paid', { id: 'c' })
    outbox.storage.write = failing
    await until(() => failures > 5)
    outbox.storage.write = write
    await until(async () => (await outbox.stats()).leased === 0)
    await bus.stop()
    expect(seen).toEqual(['a', 'b', 'c'])
    expect(logger.lines.some(({ message }) => message === 'lease failed, will repeat')).toBe(true)
    expect(logger.lines.some(({ message }) => message === 'settling failed, will repeat')).toBe(true)
  })
})
