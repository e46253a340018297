import type { Environment } from './environment.ts'
import type { Result } from './measure.ts'
import { ratio, type Verdict } from './targets.ts'

/** All there is to say about a run on one server, as it is kept in JSON. */
export interface Report {
  readonly name: string
  readonly command: string
  readonly environment: Environment
  /** The server's version, and the settings that durability depends on. */
  readonly settings: Readonly<Record<string, string>>
  readonly repetitions: number
  readonly results: readonly Result[]
  readonly verdicts: readonly Verdict[]
  readonly failures: readonly string[]
}

/** The same for readers. */
export function markdown(report: Report): string {
  const { name, command, environment, settings, repetitions, results, verdicts, failures } = report
  const workloads = [...new Set(results.map(({ workload }) => workload))]
  const parts = [
    `# Measured: ${name}`,
    `\`${command}\`: median of ${repetitions} runs, least and most in brackets.`,
    pairs(environment.machine),
    pairs(settings),
    pairs(environment.packages),
    ...workloads.flatMap((workload) => [
      `## ${workload}`,
      workloadTable(results.filter((result) => result.workload === workload)),
    ]),
    ...(verdicts.length > 0 ? ['## Targets', verdictTable(verdicts)] : []),
    ...(failures.length > 0 ? ['## Failed runs', failures.map((failure) => `- ${failure}`).join('\n')] : []),
  ]
  return `${parts.join('\n\n')}\n`
}

function pairs(values: Readonly<Record<string, string | number>>): string {
  return `${Object.entries(values)
    .map(([name, value]) => `${name} ${value}`.trim())
    .join(' · ')}.`
}

/** One row for each arm, one column for each metric, and the first metric as a share of what the floor reaches. */
export function workloadTable(results: readonly Result[]): string {
  const arms = [...new Set(results.map(({ arm }) => arm))]
  const metrics = [...new Set(results.map(({ metric }) => metric))]
  const first = results.filter(({ metric }) => metric === metrics[0])
  const floor = first.find(({ role }) => role === 'floor')
  const lowerIsBetter = !metrics[0]?.endsWith('/s')
  const rows = arms.map((arm) => {
    const cells = metrics.map((metric) => cell(results.find((at) => at.arm === arm && at.metric === metric)))
    const own = first.find((result) => result.arm === arm)
    const share = floor && own ? [rounded(ratio(own.median, floor.median, lowerIsBetter))] : []
    return [arm, ...cells, ...(floor ? share : [])]
  })
  return table([['', ...metrics, ...(floor ? ['of the floor'] : [])], ...rows])
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map(({ workload, wanted, reached, met }) => [
    workload,
    wanted,
    rounded(reached),
    met ? 'met' : '**missed**',
  ])
  return table([['workload', 'target', 'reached', ''], ...rows])
}

function table([head = [], ...rows]: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function cell(result: Result | undefined): string {
  if (!result) return ''
  const { median, least, most } = result
  return least === most ? rounded(median) : `${rounded(median)} (${rounded(least)} to ${rounded(most)})`
}

export function rounded(value: number): string {
  const digits = Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 }
  return value.toLocaleString('en', digits)
}
