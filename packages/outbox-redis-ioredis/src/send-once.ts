import type { Command, Commander, RedisClient, RedisScripts, RedisTransaction } from './client.ts'

/** What is sent in the place of a command that is not sent again. */
const INSTEAD = {
  exec: '*1\r\n$7\r\nDISCARD\r\n',
  eval: '*1\r\n$4\r\nPING\r\n',
  evalsha: '*1\r\n$4\r\nPING\r\n',
} as const

type Name = keyof typeof INSTEAD

const SCRIPTS: readonly Name[] = ['eval', 'evalsha']

/**
 * Keeps ioredis from executing a `multi()`, or a pipeline's scripts, twice. After a lost connection it sends everything
 * again that was not answered; it may have been executed, and would be applied once more. A second EXEC becomes a
 * DISCARD, a second script a PING, and whoever waits for it hears that the connection was lost.
 */
export function sendOnce(tx: object, ...names: readonly Name[]): void {
  const commander = tx as Commander
  const { sendCommand } = commander
  if (typeof sendCommand !== 'function') return
  commander.sendCommand = function (command) {
    markOnce(command, names)
    return sendCommand.call(this, command)
  }
}

/** The client for scripts that are sent once. */
export function scriptsOnce(redis: RedisClient<RedisTransaction>): RedisScripts {
  // A redirected command of a cluster client can be told from one that is sent again only in a pipeline.
  return redis.isCluster ? pipelinedScripts(redis) : markingScripts(redis)
}

/** Each in a pipeline of its own. */
function pipelinedScripts(redis: RedisClient<RedisTransaction>): RedisScripts {
  const alone = async (queue: (pipeline: RedisTransaction) => unknown): Promise<unknown> => {
    const pipeline = redis.pipeline()
    sendOnce(pipeline, ...SCRIPTS)
    queue(pipeline)
    const [error, reply] = (await pipeline.exec())?.[0] ?? [new Error('Connection is closed.'), undefined]
    if (error) throw error
    return reply
  }
  return {
    eval: (...call) => alone((pipeline) => pipeline.eval(...call)),
    evalsha: (...call) => alone((pipeline) => pipeline.evalsha(...call)),
  }
}

/** Directly: every pipeline of ioredis has a hidden class of its own, and outlives all collections but the full ones. */
function markingScripts(redis: RedisScripts & Commander): RedisScripts {
  if (!redis.options || typeof redis.sendCommand !== 'function') return redis
  return Object.create(redis, {
    // Auto-pipelining would gather commands of others, and send them through here.
    options: { value: Object.create(redis.options, { enableAutoPipelining: { value: false } }) },
    sendCommand: {
      value(command: Command) {
        markOnce(command, SCRIPTS)
        return redis.sendCommand?.(command)
      },
    },
  })
}

// A cluster client collects the same command again when it was redirected.
function markOnce(command: Command, names: readonly Name[]): void {
  const name = names.find((candidate) => candidate === command.name)
  if (name && !Object.hasOwn(command, 'toWritable')) executeOnce(command, INSTEAD[name])
}

function executeOnce(command: Command, instead: string): void {
  const { name, toWritable } = command
  let sent = false
  command.toWritable = function (socket) {
    if (!sent) {
      sent = true
      // Refused by the server, a redirection of a cluster say, it was not executed, and may be sent again.
      this.promise.catch((error: Error) => {
        if (error.name === 'ReplyError') sent = false
      })
      return toWritable.call(this, socket)
    }
    const what = name.toUpperCase()
    this.reject(new Error(`connection lost before ${what} was answered; it is not sent again`))
    return instead
  }
}
