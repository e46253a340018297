import type { PostgresParameter } from './executor.ts'
import type { Statement } from './statements.ts'

/** What columns hold, by name: `text`, `int`. */
export type Columns = Readonly<Record<string, string>>

/** The values of such columns; those that are missing are null. */
export type Row = Readonly<Record<string, string | number | boolean | null | undefined>>

/** A statement of several, which don't see each other's rows, only what the others return. */
export class Parts {
  readonly #parts: string[] = []
  readonly #parameters: PostgresParameter[] = []
  readonly #results: string[] = []

  add(name: string, text: string): void {
    this.#parts.push(`${name} AS (${text})`)
  }

  has(name: string): boolean {
    return this.#parts.some((part) => part.startsWith(`${name} AS`))
  }

  returns(select: string): void {
    this.#results.push(select)
  }

  parameter(value: PostgresParameter): string {
    return `$${this.#parameters.push(value)}`
  }

  /** Rows as a table of that name: many as JSON; a single one as values, which the server need not join with. */
  rows(name: string, columns: Columns, rows: readonly Row[]): string {
    const [row] = rows
    if (row && rows.length === 1) {
      const values = Object.entries(columns).map(([column, type]) => `${this.#value(row[column])}::${type}`)
      return `(VALUES (${values.join(', ')})) AS ${name} (${Object.keys(columns).join(', ')})`
    }
    const typed = Object.entries(columns).map(([column, type]) => `${column} ${type}`)
    return `json_to_recordset(${this.parameter(JSON.stringify(rows))}::json) AS ${name} (${typed.join(', ')})`
  }

  /**
   * The same to look up other rows by their `id`: a table, and the condition. For many it names their ids as an array
   * as well: a join might read the whole other table instead.
   */
  lookup(
    name: string,
    columns: Columns,
    rows: readonly Row[],
    id: string,
  ): { readonly table: string; readonly found: string } {
    const own = `${id} = ${name}.id`
    const table = this.rows(name, columns, rows)
    if (rows.length === 1) return { table, found: own }
    const kept = `rows_of_${name}`
    this.#parts.push(`${kept} AS MATERIALIZED (SELECT * FROM ${table})`)
    return { table: `${kept} AS ${name}`, found: `${own} AND ${id} = ANY (ARRAY(SELECT id FROM ${kept}))` }
  }

  #value(value: Row[string]): string {
    return typeof value === 'string' || typeof value === 'number'
      ? this.parameter(value)
      : String(value ?? null)
  }

  /** That the outcome is applied, as far as it is decided by the parts added so far. */
  applied(row: string, settles = `${row}.settles`): string {
    const held = this.has('settled') ? `(NOT ${settles} OR ${row}.n IN (SELECT n FROM settled))` : 'true'
    if (!this.has('appended')) return held
    return `${held} AND (${row}.event IS NULL OR ${row}.event IN (SELECT id FROM appended))`
  }

  /** A text that needs no parts, with the parameters. */
  alone(text: string): Statement {
    return { text, parameters: this.#parameters }
  }

  statement(): Statement {
    const results = this.#results.length > 0 ? this.#results : ['SELECT NULL::int AS settled WHERE false']
    const parts = this.#parts.length > 0 ? `WITH ${this.#parts.join(',\n')}\n` : ''
    return { text: parts + results.join(' UNION ALL '), parameters: this.#parameters }
  }
}
