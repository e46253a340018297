import pg from 'pg'

/** `custom`: planned for its parameters; `generic`: planned once for any, as prepared statements come to be. */
export type PlanMode = 'custom' | 'generic'

/** What a statement has touched: rows of tables, those that a filter threw away included, and pages of 8 KiB. */
export interface Costs {
  readonly rows: number
  readonly buffers: number
}

interface Plan {
  readonly 'Relation Name'?: string
  readonly 'Actual Rows': number
  readonly 'Actual Loops': number
  readonly 'Rows Removed by Filter'?: number
  readonly 'Rows Removed by Index Recheck'?: number
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: readonly Plan[]
}

/** Runs a statement as it is, sees what it costs, and takes back what it did. */
export async function costsOf(
  raw: pg.Client,
  { text, parameters }: { readonly text: string; readonly parameters: readonly unknown[] },
  mode: PlanMode,
): Promise<Costs> {
  await raw.query('BEGIN')
  try {
    await raw.query(`SET LOCAL plan_cache_mode = force_${mode}_plan`)
    await raw.query(`PREPARE measured AS ${text}`)
    const values = parameters.map(literal).join(', ')
    const call = `EXECUTE measured${values && `(${values})`}`
    const { rows } = await raw.query(`EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ${call}`)
    const plan: Plan = rows[0]['QUERY PLAN'][0].Plan
    return { rows: rowsOf(plan), buffers: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'] }
  } finally {
    await raw.query('ROLLBACK')
    await raw.query('DEALLOCATE measured').catch(() => {})
  }
}

function rowsOf(plan: Plan): number {
  const seen = plan['Relation Name'] === undefined ? 0 : plan['Actual Rows']
  const dropped = (plan['Rows Removed by Filter'] ?? 0) + (plan['Rows Removed by Index Recheck'] ?? 0)
  const own = (seen + dropped) * plan['Actual Loops']
  return (plan.Plans ?? []).reduce((sum, part) => sum + rowsOf(part), own)
}

function literal(value: unknown): string {
  if (value instanceof Uint8Array) return `'\\x${Buffer.from(value).toString('hex')}'`
  return value === null ? 'NULL' : pg.escapeLiteral(String(value))
}
