/** Fails unless every package was really tested, none of it skipped; ends with what failed and the counts of the whole run. */
import { readdirSync, readFileSync } from 'node:fs'

interface Report {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly numTodoTests: number
  readonly testResults: readonly {
    readonly name: string
    readonly status: string
    readonly assertionResults: readonly {
      readonly status: string
      readonly fullName: string
      readonly failureMessages?: readonly string[]
    }[]
  }[]
}

const report: Report = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'))
const untested = readdirSync('packages').filter((name) => {
  const results = report.testResults.filter((file) => file.name.includes(`/packages/${name}/`))
  const statuses = results.flatMap(({ assertionResults }) => assertionResults.map(({ status }) => status))
  return statuses.length === 0 || statuses.some((status) => status !== 'passed')
})
for (const name of untested) console.error(`NOT FULLY TESTED: ${name}`)
const broken = report.testResults.filter(
  ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
)
for (const { name } of broken) console.error(`DID NOT LOAD: ${name}`)
// Once more at the very end: what failed an hour ago is thousands of lines up.
for (const { name, assertionResults } of report.testResults) {
  for (const { status, fullName, failureMessages = [] } of assertionResults) {
    if (status === 'failed')
      console.error(`FAILED: ${name}: ${fullName}\n${failureMessages.join('\n').slice(0, 2_000)}`)
  }
}
const failed = report.numFailedTests + broken.length
console.log(
  `${report.numPassedTests} passed, ${failed} failed, ${report.numPendingTests + report.numTodoTests} skipped`,
)
process.exitCode = untested.length > 0 || failed > 0 ? 1 : 0
