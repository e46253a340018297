/** ioredis takes lists among its arguments, which may be longer than what a call can be given. */
type Arguments = (string | Buffer | readonly (string | Buffer)[])[]

/** A script or its hash, how many keys it has, then those keys and its other arguments. */
type ScriptCall = [script: string, numkeys: number, ...args: Arguments]

/** What runs scripts. */
export interface RedisScripts {
  eval(...call: ScriptCall): Promise<unknown>
  evalsha(...call: ScriptCall): Promise<unknown>
}

/** The part of an ioredis `multi()` or `pipeline()` that is used. */
export interface RedisTransaction {
  /** How many commands it holds, MULTI among them. */
  readonly length: number
  eval(...call: ScriptCall): unknown
  evalsha(...call: ScriptCall): unknown
  exec(): Promise<[error: Error | null, result: unknown][] | null>
}

/** The part of an ioredis 5 or 6 `Redis` or `Cluster` that is used. */
export interface RedisClient<Tx extends RedisTransaction> extends RedisScripts {
  readonly isCluster?: boolean
  getBuffer(key: string): Promise<Buffer | null>
  getexBuffer(key: string): Promise<Buffer | null>
  set(key: string, value: Buffer, unit: 'PX', ms: string): Promise<unknown>
  set(key: string, value: Buffer, unit: 'PXAT', ms: string): Promise<unknown>
  publish(channel: string, message: string): Promise<number>
  multi(): Tx
  pipeline(): Tx
}

/** A connection of the user's own that may subscribe: `redis.duplicate()`. */
export interface RedisListener {
  subscribe(channel: string): Promise<unknown>
  unsubscribe(channel: string): Promise<unknown>
  on(event: 'message', listener: (channel: string) => void): unknown
  off(event: 'message', listener: (channel: string) => void): unknown
}

/** A command of ioredis, as far as it is used. */
export interface Command {
  readonly name: string
  readonly promise: Promise<unknown>
  reject(error: Error): void
  toWritable(socket: object): string | Buffer
}

/** Where ioredis sends its commands, or collects those of a `multi()` or `pipeline()`. */
export interface Commander {
  readonly options?: object
  sendCommand?: ((command: Command) => unknown) | undefined
}
