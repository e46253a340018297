import { inspect } from 'node:util'
import type { Logger } from 'outbox-core'
import { expect } from 'vitest'

/** Part of every payload of the fault tests. */
export const SECRET = 'TOP-SECRET-4711'

/** Fails when an error tells what was in a payload, its causes included. */
export function assertDiscreet(error: unknown): void {
  expect(inspect(error, { depth: 10, maxStringLength: null })).not.toContain(SECRET)
}

/** Reads what an outbox logs while its database fails, and keeps the lines that tell what they must not. */
export class Listener implements Logger {
  readonly #leaks: string[] = []
  readonly #secrets: readonly string[]

  /** @param url of the database, with its password */
  constructor(url: string) {
    const { username, password } = url ? new URL(url) : { username: '', password: '' }
    this.#secrets = [SECRET, ...(password ? [`${username}:${password}`] : [])]
  }

  readonly debug: Logger['debug'] = (fields, message) => this.#hear(fields, message)
  readonly info: Logger['info'] = (fields, message) => this.#hear(fields, message)
  readonly warn: Logger['warn'] = (fields, message) => this.#hear(fields, message)
  readonly error: Logger['error'] = (fields, message) => this.#hear(fields, message)

  assertNoLeaks(): void {
    expect(this.#leaks).toEqual([])
  }

  #hear(fields: object, message: string): void {
    const line = `${message} ${inspect(fields, { depth: 10, maxStringLength: null })}`
    if (this.#secrets.some((secret) => line.includes(secret))) this.#leaks.push(line)
  }
}
