import type { Argument } from './arguments.ts'
import type { RedisClient, RedisScripts, RedisTransaction } from './client.ts'
import { isUnknownScript, redisError, redisWriteError } from './errors.ts'
import { keysOfScripts, type Script } from './scripts/script.ts'
import { scriptsOnce } from './send-once.ts'

/** Runs scripts on the outbox's keys, by their hashes. */
export class RedisCalls {
  readonly #scripts: RedisScripts
  readonly #scriptsOnce: RedisScripts
  readonly #keys: readonly [string, string]

  constructor(redis: RedisClient<RedisTransaction>, root: string) {
    this.#scripts = redis
    this.#scriptsOnce = scriptsOnce(redis)
    this.#keys = keysOfScripts(root)
  }

  /** For scripts that may run twice: ioredis sends again what a lost connection left unanswered. */
  async run(script: Script, parameters: readonly Argument[] = []): Promise<unknown> {
    try {
      return await this.#call(this.#scripts, script, parameters)
    } catch (error) {
      throw redisError(error)
    }
  }

  /**
   * For scripts that write: sent once. What was appended may have been handled, and so be gone, before it is sent again.
   *
   * @throws UnknownOutcomeError when the connection is lost meanwhile
   */
  async runOnce(script: Script, parameters: readonly Argument[] = []): Promise<unknown> {
    try {
      return await this.#call(this.#scriptsOnce, script, parameters)
    } catch (error) {
      throw redisWriteError(error)
    }
  }

  #call(scripts: RedisScripts, { text, sha }: Script, parameters: readonly Argument[]): Promise<unknown> {
    return scripts.evalsha(sha, 2, ...this.#keys, parameters).catch((error) => {
      if (!isUnknownScript(error)) throw error
      return scripts.eval(text, 2, ...this.#keys, parameters)
    })
  }
}
