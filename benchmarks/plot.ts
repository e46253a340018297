import type { Result } from './measure.ts'
import { rounded } from './report.ts'

const WIDTH = 760
const LABELS = 290
const ROW = 24
const COLOURS: Readonly<Record<Result['role'], string>> = {
  ours: '#1a7f5a',
  floor: '#8a94a0',
  peer: '#c2681d',
  other: '#c9ced4',
}

interface Bar {
  readonly label: string
  readonly value: number
  readonly role: Result['role']
  readonly text: string
}

/** Bars of one workload on several databases, each as a share of what that database's floor reaches; undefined without any. */
export function sharesOfFloor(title: string, results: readonly Result[]): string | undefined {
  const bars = results.flatMap(({ database, arm, role, median }): Bar[] => {
    const floor = results.find((other) => other.database === database && other.role === 'floor')
    if (!floor) return []
    const text = `${rounded(median / floor.median)}, ${rounded(median)}/s`
    return [{ label: `${database}: ${arm}`, value: median / floor.median, role, text }]
  })
  return chart(title, bars, (value) => value)
}

/** Bars on a logarithmic scale; undefined without any. */
export function milliseconds(title: string, results: readonly Result[]): string | undefined {
  const bars = results.map(({ database, arm, role, metric, median }): Bar => {
    const label = `${database}: ${arm}, ${metric.replace(', ms', '')}`
    return { label, value: median, role, text: `${rounded(median)} ms` }
  })
  return chart(title, bars, (value) => Math.log10(Math.max(value, 0.1) / 0.1))
}

function chart(title: string, bars: readonly Bar[], scale: (value: number) => number): string | undefined {
  if (bars.length === 0) return undefined
  const longest = Math.max(...bars.map(({ value }) => scale(value)))
  const space = WIDTH - LABELS - 150
  const rows = bars.flatMap(({ label, value, role, text }, index) => {
    const y = 44 + index * ROW
    const width = Math.max(1, (scale(value) / longest) * space)
    return [
      `<text x="${LABELS - 8}" y="${y + 14}" text-anchor="end">${escaped(label)}</text>`,
      `<rect x="${LABELS}" y="${y}" width="${width.toFixed(1)}" height="${ROW - 6}" fill="${COLOURS[role]}"/>`,
      `<text x="${(LABELS + width + 6).toFixed(1)}" y="${y + 14}">${escaped(text)}</text>`,
    ]
  })
  const height = 54 + bars.length * ROW
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="12" y="24" font-size="15">${escaped(title)}</text>`,
    ...rows,
    '</svg>\n',
  ].join('\n')
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
