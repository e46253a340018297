import type { Command, Commander } from './client.ts'

/**
 * Holds back what is queued into a `multi()` from now on, whoever queues it: ioredis takes no command back, but each goes
 * through `sendCommand`, in a pipeline of a cluster too.
 */
export class HeldCommands {
  readonly #tx: Commander
  readonly #sendCommand: Commander['sendCommand']
  readonly #commands: Command[] = []

  constructor(tx: Commander) {
    this.#tx = tx
    this.#sendCommand = tx.sendCommand
    tx.sendCommand = (command) => this.#hold(command)
  }

  get count(): number {
    return this.#commands.length
  }

  /** Queues them, and holds back no more. */
  release(): void {
    this.#tx.sendCommand = this.#sendCommand
    for (const command of this.#commands.splice(0)) this.#tx.sendCommand?.(command)
  }

  /** Forgets them, and holds back no more. */
  drop(): void {
    this.#tx.sendCommand = this.#sendCommand
    this.#commands.length = 0
  }

  #hold(command: Command): unknown {
    this.#commands.push(command)
    // Somebody's own EXEC ends the transaction. Held back, it would leave the connection inside MULTI.
    if (command.name === 'exec') this.release()
    return this.#tx
  }
}
