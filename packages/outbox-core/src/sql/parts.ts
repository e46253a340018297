import type { PostgresParameter } from './executor.ts'
import type { Statement } from './statements.ts'

/** What columns hold, by name: `text`, `int`. */
export type Columns = Readonly<Record<string, string>>

/** The values of such columns; those that are missing are null. */
export type Row = Readonly<Record<string, string | number | boolean | null | undefined>>

/** What a statement tells, of those that it does. */
export interface Results {
  /** The number of an outcome whose event was held. */
  readonly settled?: string
  /** The id of a fingerprinted event. */
  readonly appended?: string
  /** Whether an event may wait that the statement could not see. */
  readonly unsure?: string
}

/** A statement of several, which don't see each other's rows, only what the others return. */
export class Parts {
  readonly #parts: string[] = []
  readonly #parameters: PostgresParameter[] = []
  readonly #results: { readonly columns: Results; readonly from: string }[] = []

  /** @param how `kept`: to be read more than once, and always as a whole */
  add(name: string, text: string, how?: 'kept'): void {
    this.#parts.push(`${name} AS ${how ? 'MATERIALIZED ' : ''}(${text})`)
  }

  has(name: string): boolean {
    return this.#parts.some((part) => part.startsWith(`${name} AS`))
  }

  returns(columns: Results, from: string): void {
    this.#results.push({ columns, from })
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
    this.add(kept, `SELECT * FROM ${table}`, 'kept')
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

  /** A text of its own behind the parts, whatever they tell. */
  alone(text: string): Statement {
    return { text: this.#with + text, parameters: this.#parameters }
  }

  statement(): Statement {
    const unsure = this.#results.some(({ columns }) => columns.unsure !== undefined)
    const results = this.#results.map(({ columns: { settled, appended, ...more }, from }) => {
      const last = unsure ? `, ${more.unsure ?? '0'} AS unsure` : ''
      return `SELECT ${settled ?? 'NULL::int'} AS settled, ${appended ?? 'NULL::text'} AS appended${last} FROM ${from}`
    })
    if (results.length === 0) results.push('SELECT NULL::int AS settled WHERE false')
    return { text: this.#with + results.join(' UNION ALL '), parameters: this.#parameters }
  }

  get #with(): string {
    return this.#parts.length > 0 ? `WITH ${this.#parts.join(',\n')}\n` : ''
  }
}
