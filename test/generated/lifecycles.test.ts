import { expect, test } from 'vitest'
import type {} from '../faults/scenario.ts'
import { Lifecycle, MOVES, type Move } from './lifecycle.ts'

const LONG = process.env['FAULTS'] === 'long'
const DEPTH = Number(process.env['DEPTH'] ?? (LONG ? 6 : 4))

/** Longer courses are about one event at a time. */
const SEVERAL_EVENTS = LONG ? 5 : 3

/** Every course of so many moves that differs from the others in what it can come to. */
function* courses(length: number, before: readonly Move[] = []): Generator<readonly Move[]> {
  if (before.length === length) {
    const fit = length <= SEVERAL_EVENTS || before.filter(isEmit).length <= 1
    if (before.includes('start') && fit) yield before
    return
  }
  for (const move of MOVES) if (isNews(move, before.at(-1))) yield* courses(length, [...before, move])
}

/** Of moves whose order makes no difference, as long as no time passes between them, one order is enough. */
function isNews(move: Move, last: Move | undefined): boolean {
  if (last === undefined) return move !== 'turn' && move !== 'second' && move !== 'lose leases'
  const order = MOVES.indexOf(move) - MOVES.indexOf(last)
  if (isEmit(move) && isEmit(last)) return order >= 0
  if (move === 'slow' || move === 'turn' || move === 'lose leases') return order !== 0
  return true
}

function isEmit(move: Move): boolean {
  return move.startsWith('emit')
}

async function lived(moves: readonly Move[]): Promise<readonly string[]> {
  const stray: string[] = []
  const note = (error: unknown): void => void stray.push(`the process dies: ${error}`)
  process.on('unhandledRejection', note)
  try {
    const life = new Lifecycle()
    for (const move of moves) await life.make(move)
    await life.end()
    return [...stray, ...life.wrong]
  } finally {
    process.off('unhandledRejection', note)
  }
}

test('every course of starts, stops and what comes between them', { timeout: 14_400_000 }, async ({
  task,
}) => {
  let count = 0
  for (let length = 1; length <= DEPTH; length++) {
    for (const moves of courses(length)) {
      const wrong = await lived(moves)
      if (wrong.length > 0) throw new Error(`${moves.join(', ')}: ${wrong.join('; ')}`)
      count++
    }
  }
  expect(count).toBeGreaterThan(DEPTH)
  task.meta.fault = {
    scenario: `lifecycle, every course of up to ${DEPTH} moves`,
    adapter: 'in memory',
    seed: 0,
    counts: { courses: count },
  }
})
