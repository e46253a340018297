import { DBOS } from '@dbos-inc/dbos-sdk'
import pg from 'pg'
import { inFlight, type SagaArm, type SagaPlan, type SagaRun } from '../contender.ts'
import { timed } from '../measure.ts'
import { newPlace } from './servers.ts'

const QUIET = { info() {}, debug() {}, warn() {}, error() {} }

const tally = { executed: 0, compensated: 0 }

/** The saga as a workflow: every activity and every compensation a durable step. */
const saga = DBOS.registerWorkflow(
  async (_variables: SagaPlan['variables'], fails: boolean): Promise<void> => {
    const done: number[] = []
    try {
      for (let step = 0; step < 3; step++) {
        await DBOS.runStep(async () => execute(fails && step === 2), { name: 'execute' })
        done.push(step)
      }
    } catch {
      while (done.pop() !== undefined) {
        await DBOS.runStep(async () => void tally.compensated++, { name: 'compensate' })
      }
    }
  },
  { name: 'saga' },
)

function execute(fails: boolean): void {
  tally.executed++
  if (fails) throw new Error('refused')
}

export function dbos(systemDatabaseUrl: string): SagaArm {
  return {
    name: 'DBOS workflows',
    role: 'peer',
    async run({ count, concurrency, variables, fails }: SagaPlan): Promise<SagaRun> {
      const schema = newPlace()
      DBOS.setConfig({
        name: 'bench',
        systemDatabaseUrl,
        systemDatabaseSchemaName: schema,
        systemDatabasePoolSize: 24,
        logger: QUIET,
      })
      await DBOS.launch()
      Object.assign(tally, { executed: 0, compensated: 0 })
      let ended = 0
      const ms = await timed(() =>
        inFlight(count, concurrency, async () => {
          await saga(variables, fails)
          ended++
        }),
      )
      await DBOS.shutdown()
      await drop(systemDatabaseUrl, schema)
      return { ...tally, ended, ms }
    },
  }
}

async function drop(connectionString: string, schema: string): Promise<void> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  await client.query(`DROP SCHEMA ${schema} CASCADE`)
  await client.end()
}
