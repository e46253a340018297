/** The part of a ClientSession that is used. */
export interface MongoSession {
  readonly hasEnded: boolean
  inTransaction(): boolean
  abortTransaction(): Promise<unknown>
  withTransaction(work: () => Promise<unknown>, options?: object): Promise<unknown>
  endSession(): Promise<unknown>
}

/** What the driver takes when it begins a transaction. */
export interface MongoTransactionOptions {
  /** @default { level: 'snapshot' } */
  readonly readConcern?: { readonly level: string }
  /** @default { w: 'majority' } */
  readonly writeConcern?: {
    readonly w?: number | 'majority'
    readonly wtimeoutMS?: number
    readonly journal?: boolean
  }
  readonly maxCommitTimeMS?: number
}

/** The part of a Collection that is used. */
export interface MongoCollection {
  readonly collectionName: string
  find(filter: object, options?: object): { toArray(): Promise<object[]> }
  updateOne(
    filter: object,
    update: object[],
    options?: object,
  ): Promise<{ matchedCount: number; upsertedCount: number }>
  updateMany(filter: object, update: object[], options?: object): Promise<{ matchedCount: number }>
  deleteOne(filter: object, options?: object): Promise<{ deletedCount: number }>
  deleteMany(filter: object, options?: object): Promise<{ deletedCount: number }>
  bulkWrite(
    operations: never[],
    options?: object,
  ): Promise<{ readonly matchedCount: number; readonly upsertedIds: { readonly [index: number]: unknown } }>
  countDocuments(filter: object, options?: object): Promise<number>
  findOneAndUpdate(filter: object, update: object, options: object): Promise<object | null>
  aggregate(pipeline: object[], options?: object): { toArray(): Promise<object[]> }
  createIndex(keys: never, options?: object): Promise<unknown>
  dropIndex(name: string): Promise<unknown>
  listIndexes(options?: object): { toArray(): Promise<object[]> }
}

/** The part of a Db that is used. */
export interface MongoDatabase {
  collection(name: string): MongoCollection
  createCollection(name: string): Promise<unknown>
  command(command: object, options?: object): Promise<{ readonly [field: string]: unknown }>
}

/** What a client was set to, as far as it matters here. */
interface MongoClientSettings {
  /** How long it waits for an answer; 0 or nothing for ever. */
  readonly socketTimeoutMS?: number | undefined
  readonly timeoutMS?: number | undefined
  readonly retryWrites?: boolean | undefined
}

/** The part of a MongoClient that is used, of the drivers 6 and 7 alike. */
export interface MongoClientLike<Session extends MongoSession> {
  readonly options?: MongoClientSettings
  db(name?: string, options?: object): MongoDatabase
  startSession(): Session
}

/** The documents of a filter, at most so many: in one answer, unless that would have more than 16 MB. */
export async function findAll<Document>(
  collection: MongoCollection,
  filter: object,
  most: number,
  options: object = {},
): Promise<Document[]> {
  // Left to itself, a server sends 101 and waits to be asked for more.
  return (await collection.find(filter, { ...options, batchSize: most + 1 }).toArray()) as Document[]
}

/** What a pipeline ends with, at most so many: in one answer, too. */
export async function aggregated<Document>(
  collection: MongoCollection,
  pipeline: object[],
  most: number,
  options: object,
): Promise<Document[]> {
  return (await collection.aggregate(pipeline, { ...options, batchSize: most + 1 }).toArray()) as Document[]
}
