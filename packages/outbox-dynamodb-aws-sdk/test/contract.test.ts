import { readFileSync } from 'node:fs'
import { outboxContract } from 'outbox-core/testing'
import { afterAll, describe, expect } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { TransactItem } from '../src/index.ts'
import { dynamoBackend } from './backend.ts'

const url = serverUrl()

/** The actions that the README tells users to allow. */
function documented(): ReadonlySet<string> {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const [, section = ''] = /^## Rights\n(.*?)(?=^## |^With )/ms.exec(readme) ?? []
  return new Set(Array.from(section.matchAll(/`(?:dynamodb:)?([A-Z]\w+)`/g), ([, action = '']) => action))
}

/** The actions that a command asks for: a transaction those for what is in it. */
function actionsOf(command: string, input: { TransactItems?: readonly TransactItem[] }): string[] {
  const { TransactItems: items } = input
  if (!items) return [command.replace(/Command$/, '')]
  return items.map(({ Put, Update, Delete }) =>
    Put ? 'PutItem' : Update ? 'UpdateItem' : Delete ? 'DeleteItem' : 'ConditionCheckItem',
  )
}

describe.skipIf(url === undefined)('DynamoDB', () => {
  if (url === undefined) return
  const asked = new Set<string>()
  outboxContract(
    dynamoBackend(url, {}, (command, input) => {
      for (const action of actionsOf(command, input)) asked.add(action)
    }),
  )

  afterAll(() => {
    expect(asked.size).toBeGreaterThan(0)
    expect([...asked].filter((action) => !documented().has(action))).toEqual([])
  })
})
