/** What is compared: when it is due, and what came first of the same moment. */
type Moment = Pick<Entry, 'visibleAt' | 'sequence'>

interface Entry {
  readonly id: string
  readonly visibleAt: number
  readonly sequence: number
}

/**
 * A binary heap of events by due time, oldest first. An event that is rescheduled is added again; its older entries
 * are recognised as stale when they come out.
 */
export class DueQueue {
  readonly #heap: Entry[] = []

  add({ id, visibleAt, sequence }: Entry): void {
    const heap = this.#heap
    const entry = { id, visibleAt, sequence }
    let index = heap.push(entry) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!before(entry, heap[parent] as Entry)) break
      heap[index] = heap[parent] as Entry
      index = parent
    }
    heap[index] = entry
  }

  /** The oldest entry that `current` still knows, which stays. */
  soonest<Event>(current: (entry: Entry) => Event | undefined): Event | undefined {
    for (let top = this.#heap[0]; top; top = this.#heap[0]) {
      const event = current(top)
      if (event) return event
      this.dropSoonest()
    }
    return undefined
  }

  dropSoonest(): void {
    const heap = this.#heap
    const last = heap.pop() as Entry
    if (heap.length === 0) return
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child++
      if (!before(heap[child] as Entry, last)) break
      heap[index] = heap[child] as Entry
      index = child
    }
    heap[index] = last
  }
}

export function before(a: Moment, b: Moment): boolean {
  return a.visibleAt < b.visibleAt || (a.visibleAt === b.visibleAt && a.sequence < b.sequence)
}
