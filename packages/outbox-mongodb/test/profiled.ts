import type { Document } from 'mongodb'
import type { Opened } from './opened.ts'

const COLLECTIONS = ['outbox_events', 'outbox_events_keys', 'saga_store']

/** What the server looked at for each command of `work`, by its profiler. */
export async function looked({ db }: Opened, work: () => Promise<unknown>): Promise<Document[]> {
  await db.collection('system.profile').drop()
  await db.command({ profile: 2, slowms: 0 })
  try {
    await work()
  } finally {
    await db.command({ profile: 0 })
  }
  const ours = { ns: { $in: COLLECTIONS.map((name) => `${db.databaseName}.${name}`) } }
  const found = await db.collection('system.profile').find(ours).sort({ ts: 1 }).toArray()
  return found.filter(({ keysExamined }) => keysExamined !== undefined)
}

/** Makes documents of numbers from 0, in one statement of the server. */
export async function produce({ db }: Opened, count: number, document: object, into: object): Promise<void> {
  const numbers = db.collection('numbers')
  await numbers.updateOne({}, { $set: { n: 0 } }, { upsert: true })
  const each = [{ $project: { n: { $range: [0, count] } } }, { $unwind: '$n' }]
  await numbers.aggregate([...each, { $replaceWith: document }, into]).toArray()
}
