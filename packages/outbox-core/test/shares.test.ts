import { describe, expect, test } from 'vitest'
import { type Registration, Registrations } from '../src/delivering/registrations.ts'
import { retryPolicy } from '../src/delivering/retry.ts'
import { Shares } from '../src/delivering/shares.ts'
import type { LeasedEvent, LeaseRequest } from '../src/storage.ts'

type Asked = LeaseRequest['addresses']

const LIMIT = 400

function sharesOf(count: number, more: Partial<Registration> = {}) {
  const registrations = new Registrations()
  const registration = { retry: retryPolicy(undefined), timeoutMs: 1, handle: () => {}, ...more }
  for (let n = 0; n < count; n++) registrations.add(`type-${n}`, registration)
  const shares = new Shares(registrations)
  const of = async (limit = LIMIT): Promise<Asked> => shares.of(limit)
  return { shares, registrations, registration, of }
}

function events(address: string, count: number): LeasedEvent[] {
  return Array.from({ length: count }, () => ({ address }) as LeasedEvent)
}

const total = (asked: Asked): number => asked.reduce((sum, { limit }) => sum + limit, 0)

describe('shares of a lease', () => {
  test('of few addresses each may fill it', async () => {
    expect(await sharesOf(3).of()).toEqual([0, 1, 2].map((n) => ({ address: `type-${n}`, limit: LIMIT })))
  })

  test('of many addresses look at little, and a backlog of one of them soon fills it', async () => {
    const { shares, of } = sharesOf(100)
    let asked = await of()
    expect(total(asked)).toBe(LIMIT)
    const limits: number[] = []
    for (let lease = 0; lease < 9; lease++) {
      const share = asked.find(({ address }) => address === 'type-7')?.limit ?? 0
      limits.push(share)
      expect(shares.taken(asked, events('type-7', share), LIMIT)).toBe(true)
      asked = await of()
      expect(total(asked)).toBeLessThanOrEqual(2 * LIMIT)
    }
    expect(limits).toEqual([4, 8, 16, 32, 64, 128, 256, 400, 400])
  })

  test('of many addresses that all have a backlog look at no more than four batches', async () => {
    const { shares, of } = sharesOf(100)
    for (let lease = 0; lease < 10; lease++) {
      const asked = await of()
      expect(total(asked)).toBeLessThanOrEqual(4 * LIMIT)
      const all = asked.flatMap(({ address, limit }) => events(address, limit))
      expect(shares.taken(asked, all, LIMIT)).toBe(true)
    }
  })

  test('say that nothing may be left when none was filled', async () => {
    const { shares, of } = sharesOf(100)
    const asked = await of()
    expect(shares.taken(asked, events('type-1', (asked[1]?.limit ?? 0) - 1), LIMIT)).toBe(false)
  })

  test('leave room for no more than an address’s own concurrency', async () => {
    const { shares, of } = sharesOf(1, { concurrency: 3 })
    expect(await of()).toEqual([{ address: 'type-0', limit: 3 }])
    shares.hold('type-0')
    shares.hold('type-0')
    expect(await of()).toEqual([{ address: 'type-0', limit: 1 }])
    shares.hold('type-0')
    expect(await of()).toEqual([])
    expect(shares.takes('type-0')).toBe(false)
    expect([shares.letGo('type-0'), shares.letGo('type-0')]).toEqual([true, false])
  })

  test('with a handler of all others ask what there is, and leave out what is for somebody in particular', async () => {
    const { registrations, registration } = sharesOf(1)
    registrations.addOthers(registration)
    const waiting = ['type-0', 'other', 'other#named', 'saga.step#a'].map((address) => ({
      address,
      oldestDueMs: 0,
    }))
    const shares = new Shares(registrations)
    expect(shares.of(LIMIT, waiting).map(({ address }) => address)).toEqual(['type-0', 'other'])
  })
})
