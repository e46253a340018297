/**
 * Measures ours beside the raw driver and beside peers, in one run on one server for each database.
 *
 *   npm run bench -- [--only sqlite] [--workload drain] [--repeat 5] [--scale 1] [--minutes 10] [--out docs/measured]
 *
 * `--scale 0.02 --repeat 1` shows within minutes that everything runs; its figures mean nothing. `--minutes` adds a
 * steady load under which memory is watched. `--out` keeps each report as JSON and Markdown, and plots what is there.
 */
import { parseArgs } from 'node:util'
import { databases } from './databases/index.ts'
import { environment } from './environment.ts'
import { type Measured, measure, type Workload } from './measure.ts'
import { keep } from './output.ts'
import { type Report, verdictTable, workloadTable } from './report.ts'
import { type Verdict, verdicts } from './targets.ts'
import { codecs } from './workloads/codec.ts'
import { scaled, workloadsOf } from './workloads/index.ts'

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    workload: { type: 'string', default: '' },
    repeat: { type: 'string', default: '5' },
    scale: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '0' },
    out: { type: 'string' },
  },
})
const surroundings = environment()
const repetitions = Number(options.repeat)
const scale = Number(options.scale)
const minutes = Number(options.minutes)

async function run(
  name: string,
  settings: Report['settings'],
  workloads: readonly Workload[],
): Promise<Report> {
  console.log(`\n# ${name}`, { ...settings })
  const measured: Measured[] = []
  const judged: Verdict[] = []
  for (const workload of workloads) {
    if (!workload.name.includes(options.workload)) continue
    const { results, failures } = await measure(workload, repetitions)
    console.log(`\n${workload.name}\n${workloadTable(results)}`)
    for (const failure of failures) console.error(failure)
    measured.push({ results, failures })
    judged.push(...verdicts(workload, results))
  }
  if (judged.length > 0) console.log(`\n${verdictTable(judged)}`)
  return {
    name,
    command: `npm run bench -- ${process.argv.slice(2).join(' ')}`,
    environment: surroundings,
    settings,
    repetitions,
    results: measured.flatMap(({ results }) => results),
    verdicts: judged,
    failures: measured.flatMap(({ failures }) => failures),
  }
}

async function reportOn(name: string): Promise<Report | undefined> {
  if (name === 'codec') return run(name, {}, codecs())
  const database = await databases.get(name)?.()
  if (!database) return undefined
  return run(name, await database.describe(), workloadsOf(scaled(database, scale), { scale, minutes }))
}

console.log(surroundings)
let failed = 0
for (const name of [...databases.keys(), 'codec']) {
  if (options.only !== undefined && options.only !== name) continue
  const report = await reportOn(name)
  failed += report?.failures.length ?? 0
  if (report && options.out !== undefined) keep(report, options.out)
}
// Servers that were started here end with the process.
process.exit(failed > 0 ? 1 : 0)
