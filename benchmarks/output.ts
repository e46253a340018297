import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Result } from './measure.ts'
import { milliseconds, sharesOfFloor } from './plot.ts'
import { markdown, type Report } from './report.ts'

/** Writes a report into a folder, and plots everything the folder has by then. */
export function keep(report: Report, folder: string): void {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, `${report.name}.json`), `${JSON.stringify(report, null, 2)}\n`)
  writeFileSync(join(folder, `${report.name}.md`), markdown(report))
  const results = kept(folder)
  const drain = results.filter(({ workload }) => workload === 'drain, concurrency 24')
  plot(join(folder, 'drain.svg'), sharesOfFloor('Drain at concurrency 24, as a share of the floor', drain))
  const latency = results.filter(
    ({ workload, metric }) => workload === 'open loop at 100/s' && metric !== 'p99.9, ms',
  )
  plot(
    join(folder, 'latency.svg'),
    milliseconds('From emit to handler in another process, 100/s, logarithmic', latency),
  )
}

function kept(folder: string): Result[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .flatMap((file) => (JSON.parse(readFileSync(join(folder, file), 'utf8')) as Report).results)
}

function plot(file: string, svg: string | undefined): void {
  if (svg !== undefined) writeFileSync(file, svg)
}
