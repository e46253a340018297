type Argument = string | Buffer | number

/** The part of an ioredis `multi()` that is used. */
export interface RedisTransaction {
  eval(script: string, numkeys: number, ...args: Argument[]): unknown
  exec(): Promise<[error: Error | null, result: unknown][] | null>
}

/** The part of an ioredis 5 or 6 `Redis` or `Cluster` that is used. */
export interface RedisClient<Tx extends RedisTransaction> {
  eval(script: string, numkeys: number, ...args: Argument[]): Promise<unknown>
  evalsha(sha: string, numkeys: number, ...args: Argument[]): Promise<unknown>
  getBuffer(key: string): Promise<Buffer | null>
  info(section: string): Promise<string>
  publish(channel: string, message: string): Promise<number>
  multi(): Tx
}

/** A connection of the user's own that may subscribe: `redis.duplicate()`. */
export interface RedisListener {
  subscribe(channel: string): Promise<unknown>
  unsubscribe(channel: string): Promise<unknown>
  on(event: 'message', listener: (channel: string) => void): unknown
  off(event: 'message', listener: (channel: string) => void): unknown
}
