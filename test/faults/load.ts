import { setTimeout as sleep } from 'node:timers/promises'
import { StorageError, TransactionTimeoutError, UnknownOutcomeError } from 'outbox-core'
import type { Opened } from './adapters/adapter.ts'
import { assertDiscreet, SECRET } from './leaks.ts'
import { assertHandled, assertSettled, assertTries } from './ledger.ts'
import { sagasOn } from './sagas.ts'
import { drained, type Stage, until } from './stage.ts'

type Sagas = ReturnType<typeof sagasOn>

const PAUSE_MS = 50

/** Emits like a user whose database comes and goes: what was refused or is unknown is tried again, with the same id. */
export class Emitter {
  readonly #opened: Opened
  readonly #sagas: Sagas
  /** How many calls were told that nothing was written. */
  refused = 0
  /** How many calls were told that nobody knows. */
  unknown = 0
  /** How many events and slips are in. */
  acknowledged = 0

  constructor(opened: Opened, sagas: Sagas) {
    this.#opened = opened
    this.#sagas = sagas
  }

  /** A slip and a row of the user's own in one transaction; each try has a row of its own. */
  async slip(id: string): Promise<void> {
    const { engine, slip, note } = this.#sagas
    for (let tries = 0; ; tries++) {
      const key = `${id}/${tries}`
      note(`tried ${key}`)
      let own: unknown
      try {
        await this.#opened.outbox.transaction(async (tx) => {
          await write(this.#opened, tx, key, (error) => {
            own = error
          })
          await engine.emit(slip(id))
        })
        note(`committed ${key}`)
        this.acknowledged++
        return
      } catch (error) {
        // What a driver throws at the user's own statement reaches the user unchanged, and rolls back.
        note(`${error === own ? 'refused' : this.#verdict(error)} ${key}`)
      }
      await sleep(PAUSE_MS)
    }
  }

  /**
   * An event in a write of its own. Should something of it have been written although the call said otherwise, the
   * next try is another event under the same id, and fails for good.
   */
  async plain(id: string): Promise<void> {
    const { bus, note } = this.#sagas
    note(`attempted ${id}`)
    let version = 0
    for (let mayBeThere = false; ; await sleep(PAUSE_MS)) {
      try {
        await bus.emit('plain', { id, version, secret: SECRET }, { id })
        note(`acknowledged ${id}`)
        this.acknowledged++
        return
      } catch (error) {
        if (this.#verdict(error) === 'unknown') mayBeThere = true
        else if (!mayBeThere) version++
      }
    }
  }

  /** @throws what no user would repeat */
  #verdict(error: unknown): 'refused' | 'unknown' {
    assertDiscreet(error)
    if (error instanceof UnknownOutcomeError) {
      this.unknown++
      return 'unknown'
    }
    const passing = error instanceof StorageError && error.transient
    if (!passing && !(error instanceof TransactionTimeoutError)) throw error
    this.refused++
    return 'refused'
  }
}

/** Emits slips and plain events in turns until it is stopped. */
export class Load {
  readonly slips: string[] = []
  emits = 0
  readonly #emitter: Emitter
  readonly #pauseMs: number
  readonly #lanes: Promise<unknown>
  #stopped = false

  constructor(emitter: Emitter, { lanes = 4, pauseMs = 0 }: { lanes?: number; pauseMs?: number } = {}) {
    this.#emitter = emitter
    this.#pauseMs = pauseMs
    this.#lanes = Promise.all(Array.from({ length: lanes }, () => this.#lane()))
  }

  /** Resolves as `work` does; fails as soon as an emit fails for good. */
  during<R>(work: Promise<R>): Promise<R> {
    return Promise.race([work, this.#lanes.then(() => work)])
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#lanes
  }

  async #lane(): Promise<void> {
    while (!this.#stopped) {
      const number = this.emits++
      if (number % 2 === 0) this.slips.push(`slip-${number}`)
      await (number % 2 === 0 ? this.#emitter.slip(`slip-${number}`) : this.#emitter.plain(`plain-${number}`))
      await sleep(this.#pauseMs)
    }
  }
}

/** Starts slips without a ledger line: whoever calls it knows them. */
export async function emitSlips({ opened }: Stage, ids: readonly string[]): Promise<void> {
  const { engine, slip } = sagasOn(opened.outbox, '/dev/null')
  for (const id of ids) await engine.emit(slip(id))
}

/** Runs `work` for 0 … count - 1, `width` of them at a time. */
export async function inParallel(
  count: number,
  width: number,
  work: (number: number) => Promise<void>,
): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

/** Waits until every slip has come to its end and nothing is left, and checks how it went. */
export async function settled({ ledger, opened }: Stage, slips: readonly string[]): Promise<void> {
  try {
    await until(() => ledger.ended().size === slips.length)
    await drained(opened)
  } catch (cause) {
    const { events, dead } = await opened.contents()
    const left = slips.filter((id) => !ledger.ended().has(id))
    const state = `${left.length} slips not ended (${left.slice(0, 5)}), ${events.length} events open, ${dead} dead`
    throw new Error(`not settled: ${state}`, { cause })
  }
  assertSettled(ledger, await opened.contents(), slips)
}

/** The same after an `Emitter`: whatever it was told about its tries and its events is true. */
export async function settledAsTold(stage: Stage, slips: readonly string[]): Promise<void> {
  await settled(stage, slips)
  assertTries(stage.ledger, await stage.opened.contents())
  assertHandled(stage.ledger)
}

async function write(
  opened: Opened,
  tx: unknown,
  key: string,
  failed: (error: unknown) => void,
): Promise<void> {
  try {
    await opened.write(tx, key)
  } catch (error) {
    failed(error)
    throw error
  }
}
