import { expect, test } from 'vitest'
import { assertCourse } from './check.ts'
import { type Ground, inMemory, inSqlite } from './ground.ts'
import { courseOf } from './model.ts'
import { everyScript, type Script } from './script.ts'
import { play } from './scripted.ts'

const LONG = process.env['FAULTS'] === 'long'

async function assertPlayed(script: Script, ground: Ground): Promise<number> {
  try {
    const book = await play(script, ground)
    const course = courseOf(script)
    expect(book.runs).toEqual(course.runs)
    assertCourse(book, ground, course)
    return book.lost
  } catch (error) {
    throw new Error(`as played: ${JSON.stringify(script)}`, { cause: error })
  } finally {
    ground.close()
  }
}

const AMOUNTS = [
  ['in memory', LONG ? 6 : 3, inMemory],
  ['sqlite', LONG ? 4 : 2, inSqlite],
] as const

for (const [name, longest, open] of AMOUNTS) {
  test(`every course of a saga, ${name}`, { timeout: LONG ? 14_400_000 : 1_200_000 }, async ({ task }) => {
    let played = 0
    let lost = 0
    for (const script of everyScript(longest)) {
      lost += await assertPlayed(script, await open())
      played++
    }
    expect(lost).toBeGreaterThan(played / 100)
    task.meta.fault = {
      scenario: `saga engine, every course of up to ${longest} steps`,
      adapter: name,
      seed: 0,
      counts: { courses: played, 'lost outcomes refused': lost },
    }
  })
}
