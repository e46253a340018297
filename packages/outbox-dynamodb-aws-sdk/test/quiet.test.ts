import { describe, expect, test } from 'vitest'
import { Quiet } from '../src/quiet.ts'
import { event } from './opened.ts'

const ASKED = ['a', 'b'].map((address) => ({ address, limit: 10 }))
const names = (asked: readonly { readonly address: string }[]): string[] =>
  asked.map(({ address }) => address)

function quiet(...due: string[]): Quiet {
  const memory = new Quiet()
  memory.found(memory.asked(ASKED, 0), new Set(due), 0)
  return memory
}

describe('addresses at which nothing was due', () => {
  test('are asked again after a pause that doubles, and never long', () => {
    const memory = quiet('b')
    expect([names(memory.asked(ASKED, 9)), names(memory.asked(ASKED, 10))]).toEqual([['b'], ['a', 'b']])
    let now = 10
    const pauses: number[] = []
    for (let turn = 0; turn < 6; turn++) {
      memory.found([ASKED[0] as (typeof ASKED)[number]], new Set(), now)
      let pause = 0
      while (!names(memory.asked(ASKED, now + pause)).includes('a')) pause++
      pauses.push(pause)
      now += pause
    }
    expect(pauses).toEqual([20, 40, 80, 100, 100, 100])
  })

  test('are asked at once where this process has written something that may be due', () => {
    const none = { put: [], remove: [] }
    for (const [outcome, asked] of [
      [{ ...none, append: [event('x', { type: 'a', address: 'a' })] }, ['a']],
      [{ ...none, append: [], settle: { kind: 'complete', keepMs: 0, id: 'x', attempt: 1 } }, []],
      [
        { ...none, append: [], settle: { kind: 'complete', keepMs: 0, id: 'x', attempt: 1, key: 'k' } },
        ['a', 'b'],
      ],
      [{ ...none, append: [], settle: { kind: 'revive', id: 'x', attempt: 1 } }, ['a', 'b']],
    ] as const) {
      const memory = quiet()
      memory.written([outcome])
      expect(names(memory.asked(ASKED, 1))).toEqual(asked)
    }
  })

  test('are asked when the clock was set back', () => {
    const memory = new Quiet()
    memory.found(ASKED, new Set(), 1_000_000)
    expect(names(memory.asked(ASKED, 5))).toEqual(['a', 'b'])
  })
})
