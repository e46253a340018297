/** The mongodb driver: MONGODB_URL=mongodb://… npm run example mongodb */
import { type ClientSession, MongoClient } from 'mongodb'
import { MongoDBOutbox } from 'outbox-mongodb'
import { runOrders } from '../orders.ts'

const client = await new MongoClient(process.env['MONGODB_URL'] ?? '').connect() // your own client
const db = client.db('mongodb_example')
const outbox = new MongoDBOutbox<ClientSession>(client, { database: 'mongodb_example' })

await runOrders(outbox, (session, id) => db.collection('orders').insertOne({ id }, { session }))

await db.dropDatabase()
await client.close()
