import { inspect } from 'node:util'
import { BSON, MongoClient } from 'mongodb'
import { MongoClient as MongoClient6 } from 'mongodb6'
import { type Outcome, StorageError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { mongoError } from '../src/errors.ts'
import { event, type Opened, opened, outcome } from './opened.ts'

const url = serverUrl()

const SECRET = 'SECRET'
const BYTES = Buffer.from(SECRET)
// As text, and as bytes are shown.
const FORMS = [SECRET, BYTES.toString('base64'), BYTES.toString('hex'), '53 45 43', '83, 69, 67', '83,69,67']

const HOUR = { inMs: 3_600_000 }
const secret = { body: `"${SECRET}"`, headers: { card: SECRET }, due: HOUR } as const
const fine = (id: string): Outcome =>
  outcome({ append: [event(id, secret)], put: [{ id, data: BYTES, expires: HOUR }] })
const bad = (changes: object = {}): Outcome =>
  outcome({ append: [event('bad', { ...secret, type: 'bad', ...changes })] })

/** What makes the database refuse an outcome, and that outcome. */
const REFUSALS: [string, (place: Opened) => Promise<unknown>, Outcome][] = [
  ['a validator', ({ db }) => validate(db, { type: { $ne: 'bad' } }), bad()],
  [
    'a schema, which quotes what it found',
    ({ db }) => {
      const $jsonSchema = { properties: { body: { pattern: '^[^S]*$' } } }
      return validate(db, { $or: [{ type: { $ne: 'bad' } }, { $jsonSchema }] })
    },
    bad(),
  ],
  ['a unique index, which quotes what is there', uniqueBodies, bad({ body: `"${SECRET} twice"` })],
  [
    'an index of places, which quotes the document',
    async ({ db }) => {
      const only = { partialFilterExpression: { type: 'bad' } }
      await db.collection('outbox_events').createIndex({ body: '2dsphere' }, only)
    },
    bad(),
  ],
  [
    'the size that the server takes',
    async () => {},
    bad({ headers: { card: SECRET.padEnd(17_000_000, 'x') } }),
  ],
  [
    'the size that the encoder takes',
    async () => {},
    bad({ headers: { card: SECRET.padEnd(30_000_000, 'x') } }),
  ],
  ['the size of a body', async () => {}, bad({ body: SECRET.padEnd(16_750_000, 'x') })],
  ['a moment before all dates', async () => {}, bad({ due: { at: -9e15 } })],
  ['a moment that is none', async () => {}, bad({ due: { at: Number.NaN } })],
]

async function validate(db: Opened['db'], validator: object): Promise<void> {
  await db.command({ collMod: 'outbox_events', validator })
}

async function uniqueBodies({ db, outbox }: Opened): Promise<void> {
  const only = { unique: true, partialFilterExpression: { type: 'bad' } }
  await db.collection('outbox_events').createIndex({ body: 1 }, only)
  await outbox.storage.write([
    outcome({ append: [event('first', { type: 'bad', body: `"${SECRET} twice"`, due: HOUR })] }),
  ])
}

/** All that any logger could show of an error: hidden properties, getters, causes. */
function shown(error: unknown): string {
  const all = { depth: 20, showHidden: true, getters: true, maxStringLength: null, maxArrayLength: null }
  const { cause } = error as Error
  return [inspect(error, all), JSON.stringify(error), JSON.stringify({ ...(cause as object) })].join('\n')
}

async function thrownBy(work: Promise<unknown>): Promise<unknown> {
  const failed = Symbol('failed')
  const result = await work.then(
    () => failed,
    (error: unknown) => error,
  )
  if (result === failed) throw new Error('it was not refused')
  return result
}

function expectRefusal(error: unknown): void {
  expect(error).toBeInstanceOf(StorageError)
  expect(error).toMatchObject({ transient: false, blame: 'event' })
  const text = shown(error)
  expect(FORMS.filter((form) => text.includes(form))).toEqual([])
}

describe.skipIf(url === undefined)('MongoDB, refusing', () => {
  describe.each([
    ['driver 7', MongoClient],
    ['driver 6', MongoClient6 as unknown as typeof MongoClient],
  ])('%s', (_, Client) => {
    test.each(REFUSALS)(
      '%s: alone, in a batch, in a transaction; nothing is written or told',
      async (...given) => {
        const [, prepare, refused] = given
        const place = await opened({}, {}, url, Client)
        const { storage } = place.outbox
        await prepare(place)
        const ids = () => place.db.collection('outbox_events').distinct('_id')
        const before = await ids()
        expectRefusal(await thrownBy(storage.write([refused])))
        // What the batch has before and after it, and in a command of its own, must not be there either.
        expectRefusal(await thrownBy(storage.write([fine('one'), refused, fine('two')])))
        const inTransaction = storage.transaction(async (session) => {
          await storage.write([fine('one')], session)
          await storage.write([fine('two'), refused], session)
        })
        expectRefusal(await thrownBy(inTransaction))
        expect(await ids()).toEqual(before)
        expect(await place.db.collection('saga_store').countDocuments()).toBe(0)
        expect(await storage.write([fine('one'), fine('two')])).toHaveLength(2)
        expect(await ids()).toEqual([...before, 'one', 'two'].sort())
      },
    )

    test('a pool without a free connection is no refusal, wherever it is met', async () => {
      const pool = { maxPoolSize: 1, waitQueueTimeoutMS: 50 }
      const { db, outbox } = await opened({}, pool, url, Client)
      const { storage } = outbox
      await db.collection('slow').insertOne({})
      const batch = [outcome({ append: [event('a'), event('b')] })]
      const holding = db.collection('slow').find({ $where: 'sleep(700) || true' }).toArray()
      await new Promise((resolve) => setTimeout(resolve, 50))
      for (const write of [batch, [outcome({ append: [event('c')] })]]) {
        expect(await thrownBy(storage.write(write))).toMatchObject({
          code: 'OUTBOX_STORAGE',
          ...{ transient: true, blame: 'environment' },
        })
      }
      await holding
      expect(await storage.write(batch)).toEqual([{ status: 'applied' }])
    })

    test('a transaction that can’t begin has certainly not been committed', async () => {
      const { outbox } = await opened({}, {}, url, Client)
      const writeConcern = { w: 0 }
      const refused = await thrownBy(outbox.storage.transaction(async () => {}, { writeConcern }))
      expect(refused).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    })
  })

  test('what is refused before it is sent leaves the transaction of its caller as it was', async () => {
    const { client, db, outbox } = await opened()
    const { storage } = outbox
    const large = { id: 'large', data: Buffer.alloc(17_000_000), expires: HOUR }
    const halves = [
      outcome({ append: [event('half', { due: HOUR })], put: [large] }),
      outcome({ append: [event('half')], put: [{ id: 'p', data: BYTES, expires: { inMs: Number.NaN } }] }),
    ]
    await client.withSession(async (session) => {
      session.startTransaction()
      await storage.write([fine('before')], session)
      for (const half of halves) expectRefusal(await thrownBy(storage.write([half], session)))
      await storage.write([fine('after')], session)
      await session.commitTransaction()
    })
    expect(await db.collection('outbox_events').distinct('_id')).toEqual(['after', 'before'])
  })

  test('a lease, its extension and a retention without an end are refused', async () => {
    const { db, outbox } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: [event('a')] })])
    for (const ms of [Number.NaN, 9e15]) expectRefusal(await thrownBy(takeDue(storage, 1, ms)))
    const [lease] = await takeDue(storage, 1, 60_000)
    const held = { id: 'a', attempt: lease?.attempt ?? 0 }
    for (const ms of [Number.NaN, 9e15]) expectRefusal(await thrownBy(storage.extend([held], ms)))
    await storage.write([outcome({ settle: { ...held, kind: 'complete', keepMs: 60_000 } })])
    const before = await db.collection('outbox_events').findOne()
    for (const ms of [Number.NaN, 9e15]) expectRefusal(await thrownBy(storage.keep('a', ms)))
    expect(await db.collection('outbox_events').findOne()).toEqual(before)
  })

  test('an id that two wrote at the same moment is no refusal: the second finds it when it tries again', async () => {
    const { db } = await opened()
    const events = db.collection<{ _id: string; type?: string }>('outbox_events')
    await events.insertOne({ _id: SECRET })
    const thrown = mongoError(await thrownBy(events.insertOne({ _id: SECRET })))
    expect(thrown).toMatchObject({ transient: true, blame: 'environment', cause: { code: 11000 } })
    expect(shown(thrown)).not.toContain(SECRET)
  })

  test('a value that ends a buffer of the encoder is a refusal; memory that has run out is none', async () => {
    const encode = async (value: object) => BSON.serialize(value)
    expectRefusal(mongoError(await thrownBy(encode({ data: Buffer.alloc(20_000_000) }))))
    expectRefusal(mongoError(await thrownBy(encode({ 'a key\0': SECRET }))))
    const allocate = async () => new Uint8Array(2 ** 52)
    expect(mongoError(await thrownBy(allocate()))).toMatchObject({ blame: 'environment', transient: false })
  })

  test('a caller’s own transaction runs again when the driver is shown its own error', async () => {
    const { client, db, outbox, failing } = await opened()
    await failing(['update'], 1, { errorCode: 112, errorLabels: ['TransientTransactionError'] })
    let runs = 0
    const told: string[] = []
    await client.withSession((session) =>
      session.withTransaction(async () => {
        runs++
        await outbox.storage.write([fine('a'), fine('b')], session).catch((error: Error) => {
          const text = shown(error)
          told.push(...FORMS.filter((form) => text.includes(form)))
          throw error.cause
        })
      }),
    )
    expect(runs).toBe(2)
    expect(told).toEqual([])
    expect(await db.collection('outbox_events').countDocuments()).toBe(2)
  })

  test('an option that the server refuses says which', async () => {
    const { outbox } = await opened()
    const options = { readConcern: { level: 'bogus' } }
    const failed = outbox.storage.transaction(
      (session) => outbox.storage.write([fine('a')], session),
      options,
    )
    await expect(failed).rejects.toThrow(/9: readConcern\.level must be either/)
  })
})
