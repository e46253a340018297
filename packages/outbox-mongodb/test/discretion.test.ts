import { inspect } from 'node:util'
import * as fc from 'fast-check'
import { MongoClient } from 'mongodb'
import { OutboxError, OutboxEventBus } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import pino from 'pino'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, type Opened, opened, takesFailpoints } from './opened.ts'

const url = serverUrl()
const failpoints = url !== undefined && (await takesFailpoints(url))

/** Text that no message has by itself, with all that ends a quotation or a document. */
const secrets = fc
  .string({ unit: fc.constantFrom('"', "'", '{', '}', '\\', ',', ':', ' ', '\n', '$', 'é'), maxLength: 12 })
  .map((noise) => `${noise}sEcReT-4711${noise}`)

/** All that a logger could show of an error. */
function shown(error: unknown): string {
  const everything = { depth: null, showHidden: true, maxStringLength: null, maxArrayLength: null }
  const { err, errWithCause } = pino.stdSerializers
  const causes = [error, (error as Error).cause]
  return causes
    .flatMap((one) => [
      inspect(one, everything),
      JSON.stringify(one),
      JSON.stringify({ ...(one as object) }),
      ...(one instanceof Error ? [JSON.stringify(err(one)), JSON.stringify(errWithCause(one))] : []),
    ])
    .join('\n')
}

const thrownBy = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => Promise.reject(new Error('it did not fail')),
    (error: unknown) => error,
  )

/** Makes the server or the network fail an emit, whatever it is of. */
const FAILURES: [string, (place: Opened) => Promise<unknown>][] = [
  ['a validator', ({ db }) => db.command({ collMod: 'outbox_events', validator: { state: 'none' } })],
  [
    'a schema that says what it found',
    ({ db }) => {
      const properties = { body: { pattern: '^$' }, headers: { pattern: '^$' } }
      return db.command({ collMod: 'outbox_events', validator: { $jsonSchema: { properties } } })
    },
  ],
  [
    'an index of places, which quotes the document',
    ({ db }) => db.collection('outbox_events').createIndex({ body: '2dsphere' }),
  ],
  [
    'a write concern',
    ({ failing }) => failing(['update', 'commitTransaction'], 100, { writeConcernError: WTIMEOUT }),
  ],
]

const WTIMEOUT = { code: 64, errmsg: 'waiting for replication timed out', errInfo: { wtimeout: true } }

describe.skipIf(!failpoints)('MongoDB, failing in public', () => {
  test.each(FAILURES)(
    '%s: no error shows a part of a payload, a header or an id of the user’s',
    async (...given) => {
      const [, prepare] = given
      const place = await opened()
      await prepare(place)
      const { bus } = place
      const property = fc.asyncProperty(secrets, async (secret) => {
        const payload = { card: secret, [secret]: [secret] }
        const options = { headers: { card: secret } }
        const errors = [
          await thrownBy(bus.emit('a', payload, options)),
          await thrownBy(bus.emitMany([1, 2].map(() => ({ type: 'a', payload, ...options })))),
        ]
        for (const error of errors) {
          expect(error).toBeInstanceOf(OutboxError)
          expect(shown(error)).not.toContain('sEcReT')
        }
      })
      await fc.assert(property, { numRuns: 10 })
    },
  )

  test.each([
    ['that is not there', 'mongodb://someone:sEcReT@127.0.0.1:1/?serverSelectionTimeoutMS=100'],
    ['that refuses to log in', (url ?? '').replace('//', '//someone:sEcReT@')],
  ])('a server %s: no error shows the password', async (_, given) => {
    const client = new MongoClient(given)
    cleanups.push(() => client.close())
    const outbox = new MongoDBOutbox(client, { database: 'nobodys', logger: false })
    const bus = new OutboxEventBus(outbox)
    const calls = [
      () => outbox.initialize(),
      () => bus.emit('a', {}),
      () => outbox.transaction(() => bus.emit('a', {})),
      () => outbox.stats(),
      () => takeDue(outbox.storage, 1, 1_000),
    ]
    for (const call of calls) {
      const error = await thrownBy(call())
      expect(error).toBeInstanceOf(OutboxError)
      expect(shown(error)).not.toContain('sEcReT')
    }
  })
})
