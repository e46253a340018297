/** A command of ioredis, as far as it is used. */
interface Command {
  readonly name: string
  readonly promise: Promise<unknown>
  reject(error: Error): void
  toWritable(socket: object): string | Buffer
}

/** Where ioredis collects the commands of a `multi()` or `pipeline()`. */
interface Commander {
  sendCommand?(command: Command): unknown
}

/** What is sent in the place of a command that is not sent again. */
const INSTEAD = {
  exec: '*1\r\n$7\r\nDISCARD\r\n',
  eval: '*1\r\n$4\r\nPING\r\n',
  evalsha: '*1\r\n$4\r\nPING\r\n',
} as const

/**
 * Keeps ioredis from executing a `multi()`, or a pipeline's scripts, twice. After a lost connection it sends everything
 * again that was not answered; it may have been executed, and would be applied once more. A second EXEC becomes a
 * DISCARD, a second script a PING, and whoever waits for it hears that the connection was lost.
 */
export function sendOnce(tx: object, ...names: (keyof typeof INSTEAD)[]): void {
  const commander = tx as Commander
  const { sendCommand } = commander
  if (typeof sendCommand !== 'function') return
  commander.sendCommand = function (command) {
    const name = names.find((candidate) => candidate === command.name)
    // A cluster client collects the same command again when it was redirected.
    if (name && !Object.hasOwn(command, 'toWritable')) executeOnce(command, INSTEAD[name])
    return sendCommand.call(this, command)
  }
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
