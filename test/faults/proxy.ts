import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

/** How many characters of a command may have come with the packet before. */
const OVERLAP = 64

/** A network between a client and a server that can be made to fail: a TCP proxy. */
export class FaultyNetwork {
  /** The server's URL, through the proxy. */
  readonly url: string
  readonly #server: Server
  readonly #links: Set<Link>
  readonly #wire: Wire

  static async start(url: string): Promise<FaultyNetwork> {
    const links = new Set<Link>()
    const wire: Wire = {}
    const { hostname, port } = new URL(url)
    const server = createServer((client) => {
      const link = new Link(client, connect(Number(port), hostname), wire, () => links.delete(link))
      links.add(link)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return new FaultyNetwork(url, server, links, wire)
  }

  private constructor(url: string, server: Server, links: Set<Link>, wire: Wire) {
    this.#wire = wire
    this.#server = server
    this.#links = links
    this.url = url.replace(new URL(url).host, `127.0.0.1:${(server.address() as AddressInfo).port}`)
  }

  /** Resets every connection. */
  reset(): void {
    for (const link of this.#links) link.reset()
  }

  /** Half-open: connections stay open, and whatever is sent through them, either way, is swallowed. New ones work. */
  freeze(): void {
    for (const link of this.#links) link.frozen = true
  }

  /**
   * Resets the connection that next sends what matches, when the server answers it: it is done, and nobody knows.
   * Resolves once such an answer was there and was not handed on.
   *
   * @param meanwhile done when it is answered, before the connection is reset
   */
  async cutAnswer(command: RegExp, meanwhile?: () => Promise<unknown>): Promise<void> {
    await new Promise<void>((cut) => {
      this.#wire.wanted = { command, cut, meanwhile }
    })
  }

  async close(): Promise<void> {
    this.reset()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

/** What all connections of a proxy look out for. */
interface Wire {
  wanted?: Wanted | undefined
}

interface Wanted {
  readonly command: RegExp
  readonly cut: () => void
  readonly meanwhile?: (() => Promise<unknown>) | undefined
}

/** One connection through the proxy. */
class Link {
  frozen = false
  readonly #client: Socket
  readonly #server: Socket
  readonly #wire: Wire
  #tail = ''
  /** Set from the moment the command has gone to the server until its answer comes back. */
  #asked: Wanted | undefined
  #answered = false

  constructor(client: Socket, server: Socket, wire: Wire, closed: () => void) {
    this.#client = client
    this.#server = server
    this.#wire = wire
    client.on('data', (chunk) => this.#forward(chunk))
    server.on('data', (chunk) => void this.#answer(chunk))
    for (const [socket, other] of [[client, server] as const, [server, client] as const]) {
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        // A peer that is cut off by a half-open connection hears nothing, not even the end.
        if (!this.frozen) other.destroy()
        this.#unanswered()
        if (client.destroyed && server.destroyed) closed()
      })
    }
  }

  reset(): void {
    this.frozen = false
    this.#client.resetAndDestroy()
    this.#server.resetAndDestroy()
  }

  #forward(chunk: Buffer): void {
    if (this.frozen) return
    const sent = this.#tail + chunk.toString('latin1')
    this.#tail = sent.slice(-OVERLAP)
    const { wanted } = this.#wire
    if (wanted?.command.test(sent)) {
      this.#wire.wanted = undefined
      this.#tail = ''
      this.#asked = wanted
    }
    this.#server.write(chunk)
  }

  async #answer(chunk: Buffer): Promise<void> {
    if (this.frozen || this.#answered) return
    if (!this.#asked) {
      this.#client.write(chunk)
      return
    }
    this.#answered = true
    const { cut, meanwhile } = this.#asked
    this.#asked = undefined
    if (meanwhile) await meanwhile()
    this.#client.resetAndDestroy()
    // What it has received already it may finish.
    this.#server.end()
    cut()
  }

  /** Who ended this connection before there was an answer has left none to cut: the next such command is as good. */
  #unanswered(): void {
    this.#wire.wanted ??= this.#asked
    this.#asked = undefined
  }
}
