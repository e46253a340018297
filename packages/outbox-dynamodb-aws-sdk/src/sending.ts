import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import type { Clock } from 'outbox-core'
import { mayPass } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { type Cancellation, cancellationOf, dynamoError, dynamoWriteError } from './errors.ts'
import { repeatWhileKnown } from './repeats.ts'
import type { TransactItem } from './transact-item.ts'

export const MOST_TRIES = 8

/** Sends transactions until they are written or cancelled for good. */
export class Sending {
  readonly #client: DocumentClient
  readonly #clock: Clock

  constructor(client: DocumentClient, clock: Clock) {
    this.#client = client
    this.#clock = clock
  }

  /** @returns why it was cancelled. @throws StorageError, UnknownOutcomeError */
  async transact(items: readonly TransactItem[]): Promise<Cancellation | undefined> {
    for (let tries = 1; ; tries++) {
      try {
        // A cancelled transaction has used up its token.
        const request = { TransactItems: [...items], ClientRequestToken: randomUUID() }
        const command = new TransactWriteCommand(request)
        repeatWhileKnown(command, this.#clock)
        await send(this.#client, command)
        return undefined
      } catch (error) {
        const canceled = cancellationOf(error)
        if (!canceled) throw dynamoWriteError(error)
        if (!mayPass(canceled.reasons)) return canceled
        if (tries === MOST_TRIES) throw dynamoError(error)
        await pause(tries)
      }
    }
  }
}

/** Until others have had their turn. */
export function pause(tries: number): Promise<void> {
  return sleep(Math.random() * 10 * 2 ** tries)
}
