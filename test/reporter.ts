import type { Reporter, TestModule } from 'vitest/node'

/** Says last how many tests passed, failed and were skipped, and names the skipped ones. */
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
    for (const name of skipped) console.error(`SKIPPED ${name}`)
    // After the other reporters' own summaries.
    process.once('exit', () => console.log(`${passed} passed, ${failed} failed, ${skipped.length} skipped`))
  }
}
