import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { cursorText, parsedCursor } from '../src/cursor.ts'
import { ConfigurationError } from '../src/index.ts'

/** Text with a checksum that is right, as anyone can make it. */
function forged(json: string): string {
  return `${Buffer.from(json).toString('base64url')}.${crc32(Buffer.from(json)).toString(36)}`
}

test.each([
  [0, ''],
  [1_767_225_600_123.456, '00000000-0000-7000-8000-000000000000'],
  [-1, 'é \u0000 .'],
] as const)('a cursor comes back as it was: %s %j', (diedAt, tie) => {
  const text = cursorText([diedAt, tie])
  expect(parsedCursor(text)).toEqual([diedAt, tie])
  expect(text).toMatch(/^[\w.-]+$/)
})

test('text with one character changed, added or left out is refused', () => {
  const text = cursorText([1_767_225_600_123, 'event-1'])
  for (let at = 0; at < text.length; at++) {
    const other = text[at] === 'A' ? 'B' : 'A'
    for (const changed of [other, `${text[at]}A`, ''])
      expect(() => parsedCursor(text.slice(0, at) + changed + text.slice(at + 1))).toThrow(ConfigurationError)
  }
})

test.each([
  'null',
  '{}',
  '[]',
  '[1]',
  '[1,"a","b"]',
  '["1","a"]',
  '[null,"a"]',
  '[1e400,"a"]',
  '[1,2]',
  '[{"$gt":0},"a"]',
  '[1,{"$gt":""}]',
  '[1,"a"',
  '',
])('text of another shape is refused, however right its checksum: %s', (json) => {
  expect(() => parsedCursor(forged(json))).toThrow(ConfigurationError)
})
