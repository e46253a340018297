import type { RedisClient, RedisTransaction } from './client.ts'
import { isUnknownScript, redisError, redisWriteError } from './errors.ts'
import type { Script } from './scripts/script.ts'
import { sendOnce } from './send-once.ts'

type Argument = string | Buffer

/** Runs scripts on the outbox's keys, by their hashes. */
export class RedisCalls<Tx extends RedisTransaction> {
  readonly #redis: RedisClient<Tx>
  readonly #root: string

  constructor(redis: RedisClient<Tx>, root: string) {
    this.#redis = redis
    this.#root = root
  }

  /** For scripts that may run twice: ioredis sends again what a lost connection left unanswered. */
  async run({ text, sha }: Script, parameters: readonly Argument[] = []): Promise<unknown> {
    try {
      return await this.#redis.evalsha(sha, 1, this.#root, parameters).catch((error) => {
        if (!isUnknownScript(error)) throw error
        return this.#redis.eval(text, 1, this.#root, parameters)
      })
    } catch (error) {
      throw redisError(error)
    }
  }

  /**
   * For scripts that write: sent once. What was appended may have been handled, and so be gone, before it is sent again.
   *
   * @throws UnknownOutcomeError when the connection is lost meanwhile
   */
  async runOnce({ text, sha }: Script, parameters: readonly Argument[] = []): Promise<unknown> {
    try {
      return await this.#alone((tx) => tx.evalsha(sha, 1, this.#root, parameters)).catch((error) => {
        if (!isUnknownScript(error)) throw error
        return this.#alone((tx) => tx.eval(text, 1, this.#root, parameters))
      })
    } catch (error) {
      throw redisWriteError(error)
    }
  }

  // Of one command only a pipeline lets itself be told how often it is sent.
  async #alone(queue: (pipeline: Tx) => unknown): Promise<unknown> {
    const pipeline = this.#redis.pipeline()
    sendOnce(pipeline, 'eval', 'evalsha')
    queue(pipeline)
    const [error, reply] = (await pipeline.exec())?.[0] ?? [new Error('Connection is closed.'), undefined]
    if (error) throw error
    return reply
  }
}
