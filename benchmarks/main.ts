/**
 * Measures against the raw driver and against peers, in one run on one server.
 *
 *   npm run bench -- [--only sqlite] [--repeat 5] [--scale 1] [--json FILE]
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { dynamodb } from './dynamodb.ts'
import { machine, measure, type Result, type Workload } from './measure.ts'
import { mongodb } from './mongodb.ts'
import { postgres } from './postgres.ts'
import { redis } from './redis.ts'
import { sqlite } from './sqlite.ts'

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    repeat: { type: 'string', default: '5' },
    scale: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
})

const SUITES: Readonly<Record<string, (scale: number) => Promise<readonly Workload[]>>> = {
  sqlite,
  postgres,
  redis,
  mongodb,
  dynamodb,
}

console.log(machine())
const results: Result[] = []
for (const [name, suite] of Object.entries(SUITES)) {
  if (values.only !== undefined && values.only !== name) continue
  for (const workload of await suite(Number(values.scale))) {
    const measured = await measure(workload, Number(values.repeat))
    results.push(...measured)
    console.log(`\n${workload.name}`)
    console.table(
      measured.map(({ arm, opsPerSecond, ofFloor, target }) => ({
        arm,
        'median/s': opsPerSecond.median,
        range: `${opsPerSecond.least}-${opsPerSecond.most}`,
        'of the first': ofFloor,
        target: target ?? '',
      })),
    )
  }
}
if (values.json !== undefined)
  writeFileSync(values.json, JSON.stringify({ machine: machine(), results }, null, 2))
// Servers that were started for a suite end with the process.
process.exit()
