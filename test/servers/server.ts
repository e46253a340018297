/** A database server that tests can use. */
export interface Server {
  readonly url: string
  /** Where it comes from, for the log: a variable, Docker, a local binary. */
  readonly source: string
  stop(): Promise<void>
  /** Kills it in the middle of whatever it does, keeping its files; only for servers that were started here. */
  kill?(): Promise<void>
  /** Starts it again on the same port with the same data. */
  restart?(): Promise<void>
}

export interface LocalSettings {
  /** What it has acknowledged is on the disk, whatever that costs. @default false */
  readonly durable?: boolean
  /** Nobody may do anything without a user; the URL has one who may do everything. Only of MongoDB. @default false */
  readonly accessControl?: boolean
}

export type ServerKind = 'postgres' | 'redis' | 'dynamodb' | 'mongodb'

/** Where a server of one kind may come from. */
export interface Sources {
  /** The variable that names a server of the user's own. */
  readonly variable: string
  /** Starts one in Docker. */
  docker(): Promise<Server>
  /** Starts one from what is installed here; undefined when nothing is. */
  local(settings?: LocalSettings): Promise<Server | undefined>
  /** What to do when there is none. */
  readonly advice: string
}
