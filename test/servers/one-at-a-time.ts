import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Stands before an HTTP server that answers a moment before what it answers for is in its file: passes on one request
 * at a time, and its answer when the server has then been left alone for `restMs`.
 */
export class OneAtATime {
  readonly #server = createServer((asked, answer) => {
    this.#turn = this.#turn.then(() => this.#pass(asked, answer)).catch(() => void answer.destroy())
  })
  readonly #agent = new Agent({ keepAlive: true })
  readonly #url: string
  readonly #restMs: number
  #turn = Promise.resolve()

  constructor(url: string, restMs: number) {
    this.#url = url
    this.#restMs = restMs
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  /** Answers nobody any more, not even those who wait. */
  async close(): Promise<void> {
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }

  async #pass(asked: IncomingMessage, answer: ServerResponse): Promise<void> {
    if (answer.destroyed) return
    const { method, url, headers } = asked
    const question = await buffer(asked)
    // From here to `once` without a pause: an error that nobody listens for would end the process.
    const passed = request(new URL(url ?? '', this.#url), { method, headers, agent: this.#agent })
    passed.end(question)
    const [answered] = (await once(passed, 'response')) as [IncomingMessage]
    const body = await buffer(answered)
    await sleep(this.#restMs)
    answer.writeHead(answered.statusCode ?? 500, answered.headers).end(body)
  }
}
