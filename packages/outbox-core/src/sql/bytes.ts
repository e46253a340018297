import type { Columns } from './parts.ts'

/** The columns of a row that say where its bytes are. */
export const BYTES_COLUMNS: Columns = { begins: 'int', bytes: 'int' }

/**
 * Bytes of many rows that travel as one parameter, beside the rows' JSON: as many parameters as rows would meet the
 * protocol's limit of 65,535, and in JSON they would be escaped, parsed and freed of it again.
 */
export class Bytes {
  readonly #parts: Uint8Array[] = []
  #length = 0

  /** Where in the parameter they are: columns of the row they belong to. */
  add(data: Uint8Array): { readonly begins: number; readonly bytes: number } {
    const begins = this.#length + 1
    this.#parts.push(data)
    this.#length += data.byteLength
    return { begins, bytes: data.byteLength }
  }

  get isEmpty(): boolean {
    return this.#parts.length === 0
  }

  /** The parameter's value. */
  get value(): Uint8Array {
    const [only] = this.#parts
    return only && this.#parts.length === 1 ? only : Buffer.concat(this.#parts)
  }

  /** A row's own, in a statement. */
  static of(parameter: string): string {
    return `substring(${parameter}::bytea FROM begins FOR bytes)`
  }
}
