/**
 * What JSON gives back of a value: a Date is text, what has a `toJSON` is what that returns, functions and symbols are
 * gone. Handlers and activities get their payloads, logs and variables like this.
 */
export type Stored<T> = T extends unknown ? StoredOne<T> : never

type StoredOne<T> = 0 extends 1 & T
  ? T
  : unknown extends T
    ? T
    : T extends string | number | boolean | null | undefined
      ? T
      : T extends { toJSON(...args: never[]): infer Replacement }
        ? Stored<Replacement>
        : T extends NotJson
          ? never
          : T extends readonly unknown[]
            ? { [Index in keyof T]: Stored<T[Index]> }
            : { [Key in keyof T as StoredKey<T, Key>]: Stored<T[Key]> }

/** What `emit` refuses wherever it is, or JSON leaves out of objects. */
type NotJson =
  | bigint
  | symbol
  | ((...args: never[]) => unknown)
  | ReadonlyMap<unknown, unknown>
  | ReadonlySet<unknown>
  | ArrayBufferView
  | ArrayBufferLike

type StoredKey<T, Key extends keyof T> = Key extends symbol
  ? never
  : T[Key] extends symbol | ((...args: never[]) => unknown)
    ? never
    : Key
