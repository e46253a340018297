import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { InMemoryOutbox, NotInitializedError, OutboxEventBus, StorageError } from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { ManualClock } from '../src/testing/index.ts'

/** A bus, and how often its storage is asked; leases can be held up. */
function worker() {
  const clock = new ManualClock()
  const timers = new Set<object>()
  const { after } = clock
  clock.after = (ms, callback) => {
    const timer = {}
    timers.add(timer)
    const cancel = after.call(clock, ms, () => {
      timers.delete(timer)
      callback()
    })
    return () => {
      timers.delete(timer)
      cancel()
    }
  }
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const storage = outbox.storage as InMemoryStorage
  const bus = new OutboxEventBus(outbox, { lease: '30s' })
  const { lease } = storage
  const gate: { current: (() => Promise<unknown>) | undefined } = { current: undefined }
  const asked = { leases: 0, most: 0 }
  let asking = 0
  storage.lease = async (request) => {
    asked.leases++
    asked.most = Math.max(asked.most, ++asking)
    try {
      const held = gate.current
      const events = await lease.call(storage, request)
      await held?.()
      return events
    } finally {
      asking--
    }
  }
  const handled: unknown[] = []
  bus.on('a', ({ payload }) => void handled.push(payload))
  const states = (): string[] => [...storage.events.values()].map(({ state }) => state)
  /** Nothing is held, nothing is asked for, nothing is handled, and no timer keeps the process from ending. */
  const expectStopped = async (): Promise<void> => {
    const [leases, before] = [asked.leases, handled.length]
    expect(states().filter((state) => state === 'leased')).toEqual([])
    await bus.emit('a', 'while stopped')
    await clock.advance(300_000)
    expect([asked.leases, handled.length]).toEqual([leases, before])
    expect(timers.size).toBe(0)
  }
  const expectRunning = async (): Promise<void> => {
    await bus.emit('a', 'while running')
    await clock.advance(1_000)
    expect(handled.at(-1)).toBe('while running')
    expect(states()).toEqual([])
    expect(asked.most).toBe(1)
  }
  /** Holds up leases until it is called. */
  const holdUp = (): (() => void) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    gate.current = () => promise
    return () => {
      gate.current = undefined
      resolve()
    }
  }
  return { clock, outbox, storage, bus, asked, handled, states, expectStopped, expectRunning, holdUp }
}

/** Whatever needs no time to happen has happened. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await setImmediate()
}

describe('start', () => {
  test('twice at once, and again, is one', async () => {
    const { bus, asked, expectRunning, expectStopped } = worker()
    await Promise.all([bus.start(), bus.start()])
    await bus.start()
    expect(asked.leases).toBeLessThanOrEqual(2)
    await expectRunning()
    await bus.stop()
    await expectStopped()
  })

  test('that fails leaves the bus stopped; it can be started once that is mended', async () => {
    const { bus, storage, expectRunning, expectStopped } = worker()
    const { lease } = storage
    storage.lease = () => Promise.reject(new NotInitializedError('no tables'))
    const starts = [bus.start(), bus.start()]
    for (const start of starts) await expect(start).rejects.toThrow(NotInitializedError)
    await bus.stop()
    storage.lease = lease
    await expectStopped()
    await bus.start()
    await expectRunning()
    await bus.stop()
    await expectStopped()
  })

  test('without a database that is there yet goes on until it is', async () => {
    const { bus, clock, storage, expectRunning } = worker()
    const { lease } = storage
    storage.lease = () => Promise.reject(new StorageError('not yet', { transient: true }))
    await bus.start()
    await clock.advance(60_000)
    storage.lease = lease
    await clock.advance(5_000)
    await expectRunning()
    await bus.stop()
  })

  test('without an answer does not wait for ever, and takes what the late answer brings', async () => {
    const { bus, clock, handled, holdUp } = worker()
    await bus.emit('a', 1)
    const release = holdUp()
    let started = false
    void bus.start().then(() => {
      started = true
    })
    await clock.advance(9_999)
    expect(started).toBe(false)
    await clock.advance(1)
    expect([started, handled]).toEqual([true, []])
    release()
    await clock.advance(0)
    expect(handled).toEqual([1])
    await bus.stop()
  })
})

describe('stop', () => {
  test('of a bus that was never started, and twice, is nothing', async () => {
    const { bus, expectRunning, expectStopped } = worker()
    await bus.stop()
    await expectStopped()
    await bus.start()
    await bus.stop()
    await bus.stop()
    await expectStopped()
    await bus.start()
    await expectRunning()
    await Promise.all([bus.stop(), bus.stop()])
    await expectStopped()
  })

  test('while it starts gives back what it has leased by then, and both end', async () => {
    const { bus, states, asked, handled, expectStopped, expectRunning, holdUp } = worker()
    await bus.emit('a', 1)
    const release = holdUp()
    const starting = bus.start()
    await setImmediate()
    expect(states()).toEqual(['leased'])
    const stopping = bus.stop()
    release()
    await Promise.all([starting, stopping])
    expect([states(), handled, asked.leases]).toEqual([['waiting'], [], 1])
    await expectStopped()
    await bus.start()
    await expectRunning()
    await bus.stop()
  })

  test('in the turn of the start ends with nothing running', async () => {
    const { bus, expectStopped, expectRunning } = worker()
    await bus.emit('a', 1)
    const starting = bus.start()
    await bus.stop()
    await starting
    await expectStopped()
    await bus.start()
    await expectRunning()
    await bus.stop()
  })

  test('while the database does not answer the start ends all the same, and a late answer is given back', async () => {
    const { bus, clock, states, handled, expectStopped, holdUp } = worker()
    await bus.emit('a', 1)
    const release = holdUp()
    const both = Promise.all([bus.start(), bus.stop({ timeout: 1_000 })])
    await clock.advance(15_000)
    await both
    expect(states()).toEqual(['leased'])
    release()
    await turns()
    expect([states(), handled]).toEqual([['waiting'], []])
    await expectStopped()
  })

  test('inside a handler begins, does not wait for itself, and the handler completes', async () => {
    const { bus, clock, outbox, expectStopped } = worker()
    let returned = false
    bus.on('ends', async (_, { signal }) => {
      await bus.stop()
      returned = true
      expect(signal.aborted).toBe(false)
    })
    await bus.start()
    await bus.emit('ends', {})
    await clock.advance(1_000)
    expect(returned).toBe(true)
    await bus.stop()
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
    await expectStopped()
  })

  test('by what a handler has left behind waits as any other', async () => {
    const { bus, clock, expectStopped } = worker()
    let stopped: Promise<void> | undefined
    const left = Promise.withResolvers<void>()
    const busy = Promise.withResolvers<void>()
    bus.on('leaves', () => {
      stopped = left.promise.then(() => bus.stop())
    })
    bus.on('busy', () => busy.promise)
    await bus.start()
    await bus.emit('leaves', {})
    await clock.advance(10)
    await bus.emit('busy', {})
    await clock.advance(10)
    left.resolve()
    let over = false
    void stopped?.then(() => {
      over = true
    })
    await clock.advance(1_000)
    expect(over).toBe(false)
    busy.resolve()
    await turns()
    expect(over).toBe(true)
    await expectStopped()
  })
})

describe('start and stop', () => {
  test('start while it stops starts once that has ended', async () => {
    const { bus, clock, expectRunning, expectStopped } = worker()
    const busy = Promise.withResolvers<void>()
    bus.on('busy', () => busy.promise)
    await bus.start()
    await bus.emit('busy', {})
    await clock.advance(10)
    const stopping = bus.stop()
    const starting = bus.start()
    let started = false
    void starting.then(() => {
      started = true
    })
    await clock.advance(5_000)
    expect(started).toBe(false)
    busy.resolve()
    await clock.advance(10)
    await Promise.all([stopping, starting])
    await expectRunning()
    await bus.stop()
    await expectStopped()
  })

  test('a start that waits for a stop is given up by another stop', async () => {
    const { bus, clock, expectStopped } = worker()
    const busy = Promise.withResolvers<void>()
    bus.on('busy', () => busy.promise)
    await bus.start()
    await bus.emit('busy', {})
    await clock.advance(10)
    const all = [bus.stop(), bus.start(), bus.stop()]
    busy.resolve()
    await clock.advance(10)
    await Promise.all(all)
    await expectStopped()
  })

  test.each([
    ['start stop start', true],
    ['start stop start stop', false],
    ['stop start', true],
    ['start start stop', false],
    ['start stop stop start start', true],
    ['start stop start stop start', true],
  ])('%s in one turn ends as asked for last', async (calls, runs) => {
    for (const before of ['stopped', 'running']) {
      const { bus, clock, expectRunning, expectStopped } = worker()
      if (before === 'running') await bus.start()
      const all = calls.split(' ').map((call) => (call === 'start' ? bus.start() : bus.stop()))
      await clock.advance(1_000)
      await Promise.all(all)
      await (runs ? expectRunning() : expectStopped())
      await bus.stop()
      await expectStopped()
    }
  })
})
