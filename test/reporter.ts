import type { Reporter, TestModule } from 'vitest/node'
import type {} from './faults/scenario.ts'

/**
 * Prints what the fault scenarios counted as one table, and says last how many tests passed, failed and were
 * skipped, the skipped ones by name.
 */
export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    let passed = 0
    let failed = errors.length
    const skipped: string[] = []
    for (const module of modules) {
      let tests = 0
      for (const test of module.children.allTests()) {
        tests++
        const { state } = test.result()
        if (state === 'passed') passed++
        else if (state === 'failed') failed++
        else skipped.push(`${module.project.name}: ${test.fullName}`)
      }
      // A file that could not be loaded has no tests that could have failed.
      if (tests === 0 && module.state() === 'failed') failed++
    }
    const faults = faultTable(modules)
    for (const name of skipped) console.error(`SKIPPED ${name}`)
    // After the other reporters' own summaries.
    process.once('exit', () => {
      if (faults.length > 0) console.log(faults.join('\n'))
      console.log(`${passed} passed, ${failed} failed, ${skipped.length} skipped`)
    })
  }
}

/** A line for each scenario and adapter: seed, seconds, counts. */
function faultTable(modules: readonly TestModule[]): readonly string[] {
  const lines: string[] = []
  for (const module of modules) {
    for (const test of module.children.allTests()) {
      const { fault } = test.meta()
      if (!fault) continue
      const seconds = ((test.diagnostic()?.duration ?? 0) / 1_000).toFixed(1)
      const counts = Object.entries(fault.counts).map(([what, count]) => `${count} ${what}`)
      lines.push(
        `| ${[fault.scenario, fault.adapter, counts.join(', '), `${seconds} s`, fault.seed].join(' | ')} |`,
      )
    }
  }
  if (lines.length === 0) return []
  return [
    '| fault | adapter | counts | time | seed |',
    '| --- | --- | --- | --- | --- |',
    ...lines.toSorted(),
  ]
}
