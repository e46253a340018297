import { randomBytes } from 'node:crypto'
import type { Clock } from 'outbox-core'
import { type AwsError, mayHaveArrived } from './classification.ts'

/** A try of the SDK's: what it sends, and how what lies below sends it. */
type Try<In, Out> = (next: (args: In) => Promise<Out>) => (args: In) => Promise<Out>

const OPTIONS = {
  // Below the SDK's retries.
  ...{ step: 'finalizeRequest', priority: 'low' },
  // A command of lib-dynamodb has its stack taken over twice.
  ...{ name: 'outboxRepeats', override: true },
} as const

/** The part of a command that is used: its own middleware, which passes every try of the SDK's once. */
interface Retried {
  readonly middlewareStack: {
    // The SDK's types are those of each command's input and output.
    add(middleware: never, options: typeof OPTIONS): void
  }
}

// DynamoDB knows a ClientRequestToken for ten minutes.
const TOKEN_MS = 9 * 60_000

/** Marks a request in the item that it changes: sent again by the driver, it finds itself. */
export function newMark(): string {
  return randomBytes(12).toString('base64url')
}

/** Watches the tries of a command. The returned function tells whether one may have been carried out without an answer. */
export function watchRepeats(command: object): () => boolean {
  let unanswered = 0
  around(command, (next) => async (args) => {
    try {
      return await next(args)
    } catch (error) {
      if (mayHaveArrived(error as AwsError)) unanswered++
      throw error
    }
  })
  return () => unanswered > 0
}

/**
 * Keeps the SDK from sending a command again for longer than DynamoDB knows its token: a process may have been asleep
 * meanwhile. Such a try fails as the one before it did.
 */
export function repeatWhileKnown(command: object, clock: Clock): void {
  let first: number | undefined
  let failure: unknown
  around(command, (next) => async (args) => {
    first ??= clock.now()
    if (failure !== undefined && clock.now() - first > TOKEN_MS) throw failure
    try {
      return await next(args)
    } catch (error) {
      if (mayHaveArrived(error as AwsError)) failure = error
      throw error
    }
  })
}

function around<In, Out>(command: object, middleware: Try<In, Out>): void {
  ;(command as Retried).middlewareStack.add(middleware as never, OPTIONS)
}
