import { appendFileSync, closeSync, fstatSync, openSync, readSync, writeFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { Contents } from './adapters/adapter.ts'
import { fails, STEPS } from './sagas.ts'

/** What processes wrote down outside the database, line by line: attempted, acknowledged, executed, compensated, ended. */
export class Ledger {
  readonly file: string
  readonly #lines: string[] = []
  /** What follows the first word of the lines that begin with it. */
  readonly #notes = new Map<string, string[]>()
  /** How many bytes of the file are in `#lines`. */
  #read = 0

  constructor(file: string) {
    this.file = file
    writeFileSync(file, '')
  }

  note(line: string): void {
    appendFileSync(this.file, `${line}\n`)
  }

  lines(): readonly string[] {
    this.#readOn()
    return this.#lines
  }

  /** What follows `what` on the lines that begin with it. */
  noted(what: string): readonly string[] {
    this.#readOn()
    return this.#notes.get(what) ?? []
  }

  /** The slips that came to an end, each once. */
  ended(): ReadonlySet<string> {
    return new Set([...this.noted('completed'), ...this.noted('compensated')])
  }

  /** Reads only what is new: tests ask a hundred times a second. */
  #readOn(): void {
    const added = readFrom(this.file, this.#read)
    // A line that is being written is left for the next time.
    const whole = added.subarray(0, added.lastIndexOf('\n') + 1)
    this.#read += whole.length
    for (const line of whole.toString().split('\n').filter(Boolean)) {
      this.#lines.push(line)
      const [what = ''] = line.split(' ', 1)
      const notes = this.#notes.get(what) ?? []
      notes.push(line.slice(what.length + 1))
      this.#notes.set(what, notes)
    }
  }
}

function readFrom(file: string, position: number): Buffer {
  const descriptor = openSync(file, 'r')
  try {
    const buffer = Buffer.alloc(fstatSync(descriptor).size - position)
    return buffer.subarray(0, readSync(descriptor, buffer, 0, buffer.length, position))
  } finally {
    closeSync(descriptor)
  }
}

/** Nothing acknowledged is missing, nothing stored was not attempted, rows, events and payloads belong together. */
export function assertStored(ledger: Ledger, { rows, events, payloads }: Contents): void {
  const attempted = new Set(ledger.noted('attempted'))
  const slips = events.map(({ slip }) => slip ?? '')
  const stored = new Set(slips)
  expect(ledger.noted('acknowledged').filter((id) => !stored.has(id))).toEqual([])
  expect(slips.filter((id) => !attempted.has(id))).toEqual([])
  expect(stored.size).toBe(slips.length)
  expect(slips.toSorted()).toEqual(rows.toSorted())
  expect(events.map(({ claim }) => claim ?? '').toSorted()).toEqual(payloads.toSorted())
}

/**
 * Every row stands for one try at a transaction. Those that were committed are there, those that were refused are not,
 * and of those whose outcome was unknown some are.
 */
export function assertTries(ledger: Ledger, { rows }: Contents): void {
  const stored = new Set(rows)
  expect(stored.size).toBe(rows.length)
  const tried = new Set(ledger.noted('tried'))
  expect(rows.filter((key) => !tried.has(key))).toEqual([])
  expect(ledger.noted('committed').filter((key) => !stored.has(key))).toEqual([])
  expect(ledger.noted('refused').filter((key) => stored.has(key))).toEqual([])
}

/** Every plain event that was acknowledged was handled, and none that was not attempted. */
export function assertHandled(ledger: Ledger): void {
  const handled = new Set(ledger.noted('handled'))
  const attempted = new Set(ledger.noted('attempted'))
  expect(ledger.noted('acknowledged').filter((id) => !handled.has(id))).toEqual([])
  expect([...handled].filter((id) => !attempted.has(id))).toEqual([])
}

/** Every slip ran exactly its steps, was compensated in exact reverse where it failed, ended, and left nothing behind. */
export function assertSettled(
  ledger: Ledger,
  { events, dead, payloads }: Contents,
  slips: Iterable<string>,
): void {
  expect({ events, dead, payloads }).toEqual({ events: [], dead: 0, payloads: [] })
  const executed = grouped(ledger.noted('execute'))
  const compensated = grouped(ledger.noted('compensate'))
  const completed = new Set(ledger.noted('completed'))
  const undone = new Set(ledger.noted('compensated'))
  for (const id of slips) {
    expect(executed.get(id), id).toEqual(Array.from({ length: STEPS }, (_, step) => `${step}`))
    const reverse = Array.from({ length: STEPS - 1 }, (_, step) => `${STEPS - 2 - step}`)
    expect(compensated.get(id), id).toEqual(fails(id) ? reverse : undefined)
    expect([completed.has(id), undone.has(id)], id).toEqual([!fails(id), fails(id)])
  }
}

/**
 * A slip's handlers ran again only as often as one of its leases was lost: to another worker, or with its process while
 * the outcome was not known to be written. Needs processes that kill themselves, and Watch in each.
 */
export function assertRepeatsExplained(ledger: Ledger): void {
  const excuses = new Map<string, number>()
  for (const note of [...ledger.noted('lost'), ...ledger.noted('held')]) {
    const [slip = ''] = note.split(' ')
    excuses.set(slip, (excuses.get(slip) ?? 0) + 1)
  }
  const seen = new Set<string>()
  const unexplained: string[] = []
  for (const line of ledger.lines()) {
    const [what = '', slip = ''] = line.split(' ')
    if (!RUNS.has(what)) continue
    if (seen.has(line)) {
      const left = excuses.get(slip) ?? 0
      if (left === 0) unexplained.push(line)
      excuses.set(slip, left - 1)
    }
    seen.add(line)
  }
  expect(unexplained).toEqual([])
}

const RUNS: ReadonlySet<string> = new Set(['execute', 'compensate', 'completed', 'compensated'])

/** How many runs of a slip's handlers were not the first one. */
export function repeatedRuns(ledger: Ledger): number {
  const runs = ledger.lines().filter((line) => RUNS.has(line.split(' ', 1)[0] ?? ''))
  return runs.length - new Set(runs).size
}

/** How many runs of an activity were not the first one. */
export function repeatedAttempts(ledger: Ledger): number {
  const runs = ledger.noted('execute')
  return runs.length - new Set(runs).size
}

/** Steps by slip, each once, in order of first appearance. */
function grouped(notes: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const steps = new Map<string, string[]>()
  for (const note of new Set(notes)) {
    const [slip = '', step = ''] = note.split(' ')
    steps.set(slip, [...(steps.get(slip) ?? []), step])
  }
  return steps
}
