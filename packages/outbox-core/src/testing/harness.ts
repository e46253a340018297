import { test } from 'vitest'
import type { Logger } from '../logger.ts'
import type { OutboxOptions } from '../outbox.ts'
import type { LeasedEvent, NewEvent, Outcome, PayloadRecord, Settlement, Storage } from '../storage.ts'
import type { Backend, BackendTraits, Place } from './backend.ts'

type Body<Tx, TxOptions, Args extends unknown[] = []> = (
  place: Place<Tx, TxOptions>,
  ...args: Args
) => Promise<void>

/** Registers a test that gets a new place of the backend, and drops it whatever happens. */
export interface PlaceTest<Tx, TxOptions> {
  (name: string, body: Body<Tx, TxOptions>, options?: OutboxOptions): void
  each<const Case>(name: string, cases: readonly Case[], body: Body<Tx, TxOptions, [Case]>): void
  readonly traits: BackendTraits
}

export function placeTest<Tx, TxOptions>(backend: Backend<Tx, TxOptions>): PlaceTest<Tx, TxOptions> {
  const register = (name: string, body: Body<Tx, TxOptions>, options: OutboxOptions = {}): void => {
    test(name, async () => {
      const place = await backend.open({ logger: false, ...options })
      try {
        await body(place)
      } finally {
        await place.destroy()
      }
    })
  }
  return Object.assign(register, {
    each: <Case>(name: string, cases: readonly Case[], body: Body<Tx, TxOptions, [Case]>): void => {
      for (const one of cases) register(name.replace('%s', String(one)), (place) => body(place, one))
    },
    traits: backend.traits ?? {},
  })
}

/** Keeps every line, for tests that look for what must or must not be logged. */
export function recordingLogger(): Logger & { readonly lines: readonly LogLine[] } {
  const lines: LogLine[] = []
  const at =
    (level: LogLine['level']) =>
    (fields: object, message: string): void => {
      lines.push({ level, message, fields: fields as Record<string, unknown> })
    }
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

/** Waits until `condition` holds; fails after `timeoutMs` with the last error or the condition's text. */
export async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const giveUpAt = Date.now() + timeoutMs
  while (!(await condition())) {
    if (Date.now() > giveUpAt) throw new Error(`still not true after ${timeoutMs} ms: ${condition}`)
    await sleep(5)
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

let counter = 0

/** An event that no other test has. */
export function newEvent(changes: Partial<NewEvent> = {}): NewEvent {
  counter++
  return {
    id: `event-${counter}`,
    type: 'test.event',
    address: changes.type ?? 'test.event',
    key: null,
    body: JSON.stringify({ counter }),
    headers: {},
    due: { inMs: 0 },
    fingerprint: null,
    ...changes,
  }
}

/** Leases whatever is due, at every address that there is. */
export async function takeDue(
  storage: Pick<Storage<unknown>, 'waiting' | 'lease'>,
  limit: number,
  leaseMs: number,
): Promise<readonly LeasedEvent[]> {
  const addresses = (await storage.waiting()).map(({ address }) => ({ address, limit }))
  return addresses.length > 0 ? storage.lease({ limit, leaseMs, addresses }) : []
}

export function appending(...append: NewEvent[]): Outcome {
  return { append, put: [], remove: [] }
}

export function settling(settle: Settlement, rest: Partial<Omit<Outcome, 'settle'>> = {}): Outcome {
  return { settle, append: [], put: [], remove: [], ...rest }
}

export function payload(
  id: string,
  data: Uint8Array | string,
  expires: PayloadRecord['expires'] = { inMs: 60_000 },
): PayloadRecord {
  return { id, data: typeof data === 'string' ? new TextEncoder().encode(data) : data, expires }
}

export function text(data: Uint8Array | undefined): string | undefined {
  return data && new TextDecoder().decode(data)
}
