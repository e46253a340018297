import { CLAIM_HEADER } from '../../packages/outbox-core/src/emitting/event.ts'
import type { Ground } from '../engine/ground.ts'
import type { Faults } from './faults.ts'
import type { Verb } from './gate.ts'
import { isQuiet, type Ledger } from './ledger.ts'
import { EMITS } from './worker.ts'

/** What does not hold of a course that has come to its end. */
export function broken(ledger: Ledger, ground: Ground, met: Faults['met']): readonly string[] {
  const check = new Check(ledger, ground, met)
  check.all()
  return check.wrong
}

/** Calls that, refused, make a dead letter of their event. */
const MAKES_DEAD_LETTERS: ReadonlySet<Verb> = new Set(['write', 'getPayload', 'put', 'get'])

class Check {
  readonly wrong: string[] = []
  readonly #ledger: Ledger
  readonly #ground: Ground
  readonly #met: Faults['met']
  readonly #dead: ReadonlySet<string>
  /** A database that refuses something may make a dead letter of anything. */
  readonly #mayDie: boolean

  constructor(ledger: Ledger, ground: Ground, met: Faults['met']) {
    this.#ledger = ledger
    this.#ground = ground
    this.#met = met
    const dead = ground.events().filter(({ state }) => state === 'dead')
    this.#dead = new Set(dead.map(({ id }) => id))
    this.#mayDie = met.some(({ kind, verb }) => kind === 'refused' && MAKES_DEAD_LETTERS.has(verb))
    this.wrong.push(...ledger.seen)
  }

  all(): void {
    this.#expect(isQuiet(this.#ground), 'something is left open')
    for (const [key, { way, fate }] of this.#ledger.asked) {
      if (way === 'slip') this.#slip(fate)
      else this.#job(key, way, fate)
    }
    this.#allOrNone()
    this.#followers()
    this.#payloads()
    this.#heartbeats()
  }

  #job(key: string, way: string, fate: string): void {
    const ids = this.#idsOf(key)
    if (fate === 'stored') this.#expect(ids.size === 1, `${key} was stored, and there are ${ids.size}`)
    if (fate === 'not stored') this.#expect(ids.size === 0, `${key} was not stored, and is there`)
    this.#expect(ids.size <= 1, `${key} is there ${ids.size} times`)
    for (const id of ids) this.#settled(key, way, id)
  }

  #settled(key: string, way: string, id: string): void {
    const dead = this.#dead.has(id)
    const completed = this.#ledger.completed.has(id)
    this.#expect(dead !== completed, `${key} is ${dead ? 'both completed and dead' : 'gone without a trace'}`)
    if (way === 'fails for good') this.#expect(dead, `${key} fails for good, and is no dead letter`)
    else this.#expect(!dead || this.#mayDie, `${key} is a dead letter without a reason`)
    const emitted = [...this.#ledger.following.values()].filter(({ parent }) => parent === key)
    const runs = new Set(emitted.map(({ run }) => run))
    for (const run of runs) {
      const { end } = this.#ledger.runs[run] ?? { end: 'unknown' }
      this.#expect(end === 'succeeded', `an attempt at ${key} that is ${end} has emitted something`)
    }
    const wanted = completed ? EMITS : 0
    this.#expect(emitted.length === wanted, `${key} has emitted ${emitted.length}, not ${wanted}`)
  }

  /** Of a transaction's events. */
  #allOrNone(): void {
    const fates = [...this.#ledger.asked].filter(([, { fate }]) => fate === 'stored')
    for (const [key] of fates) this.#expect(this.#stored(key), `${key} was stored, and is lost`)
  }

  #followers(): void {
    const handled = new Set(this.#ledger.runs.map(({ eventId }) => eventId))
    for (const [id, { type }] of this.#ledger.following) {
      const dead = this.#dead.has(id)
      const completed = this.#ledger.completed.has(id)
      this.#expect(dead !== completed, `${type}, emitted, is gone without a trace`)
      this.#expect(!dead || this.#mayDie, `${type}, emitted, is a dead letter without a reason`)
      if (completed && type === 'next') this.#expect(handled.has(id), `${type} was never handled`)
    }
    for (const { key, eventId } of this.#ledger.runs)
      if (!this.#ledger.asked.has(key))
        this.#expect(this.#ledger.following.has(eventId), 'an event was handled that nobody has emitted')
  }

  #slip(fate: string): void {
    const { steps, following } = this.#ledger
    const told = (kind: string): number =>
      [...following.values()].filter(({ type }) => type === `saga.${kind}`).length
    const dead = this.#ground.events().some(({ type, state }) => type === 'saga.step' && state === 'dead')
    if (fate === 'stored') this.#expect(steps.length > 0 || dead, 'the slip was stored, and is lost')
    if (fate === 'not stored') this.#expect(steps.length === 0, 'the slip was not stored, and runs')
    if (steps.length === 0) return
    this.#expect(told('faulted') <= 1 && told('compensated') <= 1, 'the slip went the same way twice')
    this.#expect(dead !== (told('compensated') === 1), 'the slip is neither compensated nor a dead letter')
    const undone = steps.indexOf('release')
    const called = steps.indexOf('charge')
    this.#expect(undone === -1 || (called !== -1 && called < undone), 'compensated, and nothing has failed')
    for (const name of ['reserve', 'charge'])
      if (steps.includes(`${name} failed`))
        this.#expect(steps.includes(name), `${name} was never called, and compensated as failed`)
    if (told('compensated') === 1) this.#expect(undone !== -1, 'compensated without the compensation')
  }

  #payloads(): void {
    const claims = new Set(this.#ground.events().map(({ headers }) => headers[CLAIM_HEADER]))
    const orphans = this.#ground.payloads().filter((id) => !claims.has(id))
    this.#expect(orphans.length === 0, `${orphans.length} payloads have no event`)
  }

  /** One heartbeat that fails is made up for: nobody else gets the event meanwhile. */
  #heartbeats(): void {
    const [one, another] = this.#met
    if (one?.verb !== 'extend' || another) return
    for (const [key, { way }] of this.#ledger.asked) {
      if (way !== 'takes long') continue
      const runs = this.#ledger.runs.filter((run) => run.key === key).length
      this.#expect(runs === 1, `${key} was handled ${runs} times because of one heartbeat`)
    }
  }

  #stored(key: string): boolean {
    return key === 'slip' || this.#idsOf(key).size > 0
  }

  #idsOf(key: string): ReadonlySet<string> {
    const there = this.#ground.events().filter(({ headers }) => headers['key'] === key)
    const ran = this.#ledger.runs.filter((run) => run.key === key)
    return new Set([...there.map(({ id }) => id), ...ran.map(({ eventId }) => eventId)])
  }

  #expect(holds: boolean, otherwise: string): void {
    if (!holds) this.wrong.push(otherwise)
  }
}
