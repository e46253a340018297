import { outsideCallers } from '../async-scope.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { Handling } from './handling.ts'

/** The four states a bus can be in; every change between them is made here. */
type State =
  | { readonly name: 'stopped' }
  | {
      readonly name: 'starting' | 'running'
      readonly dispatcher: Dispatcher
      readonly started: Promise<void>
    }
  | { readonly name: 'stopping'; readonly ended: Promise<void> }

const STOPPED: State = { name: 'stopped' }

/** Starts and stops a bus's dispatcher, in whatever order and however often it is asked to. */
export class Worker {
  readonly #make: () => Dispatcher
  readonly #handling: Pick<Handling, 'isAroundCaller'>
  #state: State = STOPPED
  /** What was asked for last: a start that waits for a stop is given up by another stop. */
  #wanted: 'running' | 'stopped' = 'stopped'

  /**
   * @param make a dispatcher for one start; it is not started twice
   * @param handling knows whether it is a handler that calls
   */
  constructor(make: () => Dispatcher, handling: Pick<Handling, 'isAroundCaller'>) {
    this.#make = make
    this.#handling = handling
  }

  async start(): Promise<void> {
    this.#wanted = 'running'
    while (this.#state.name === 'stopping') await this.#state.ended
    // Another stop may have come meanwhile.
    if (this.#wanted === 'running') await this.#started()
  }

  /**
   * @param drainMs how long running handlers may take
   */
  async stop(drainMs: number): Promise<void> {
    this.#wanted = 'stopped'
    if (this.#state.name === 'starting' || this.#state.name === 'running')
      this.#end(this.#state.dispatcher, drainMs)
    // A handler that waited for the bus to stop would wait for itself.
    if (this.#state.name === 'stopping' && !this.#handling.isAroundCaller) await this.#state.ended
  }

  #started(): Promise<void> {
    if ('started' in this.#state) return this.#state.started
    const dispatcher = this.#make()
    const started = outsideCallers(() => dispatcher.start()).then(
      () => {
        if (this.#isOf(dispatcher)) this.#state = { name: 'running', dispatcher, started }
      },
      (error: unknown) => {
        if (this.#isOf(dispatcher)) this.#state = STOPPED
        throw error
      },
    )
    this.#state = { name: 'starting', dispatcher, started }
    return started
  }

  #end(dispatcher: Dispatcher, drainMs: number): void {
    const ended = outsideCallers(() => dispatcher.stop(drainMs)).finally(() => {
      this.#state = STOPPED
    })
    this.#state = { name: 'stopping', ended }
  }

  #isOf(dispatcher: Dispatcher): boolean {
    return 'dispatcher' in this.#state && this.#state.dispatcher === dispatcher
  }
}
