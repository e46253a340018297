import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'

const PAGES = globSync(['README.md', 'docs/*.md', 'packages/*/README.md', 'benchmarks/*.md'])

interface Link {
  readonly page: string
  readonly target: string
  /** What the page says after the link. */
  readonly after: string
}

function linksOf(page: string): Link[] {
  const links = readFileSync(page, 'utf8').matchAll(/\]\(([^)\s]+)\)([^[|\n]*)/g)
  return [...links].map(([, target = '', after = '']) => ({ page, target, after }))
}

describe('links', () => {
  const links = PAGES.flatMap(linksOf).filter(({ target }) => !/^(https?:|#)/.test(target))

  test('are there', () => {
    expect(links.length).toBeGreaterThan(20)
  })

  test('lead somewhere', () => {
    const broken = links.filter(
      ({ page, target }) => !existsSync(join(dirname(page), target.split('#')[0] ?? '')),
    )
    expect(broken).toEqual([])
  })
})

describe('proofs', () => {
  const proofsOf = (page: string): Link[] => linksOf(page).filter(({ after }) => after.startsWith(': '))

  test('each requirement has one', () => {
    const rows = readFileSync('docs/requirements.md', 'utf8').match(/^\|/gm)?.length
    expect(proofsOf('docs/requirements.md')).toHaveLength((rows ?? 0) - 2)
  })

  test.each(['docs/requirements.md', 'docs/guarantees.md'])('each in %s is a test of that name', (page) => {
    const proofs = proofsOf(page)
    expect(proofs.length).toBeGreaterThan(10)
    const missing = proofs.filter(({ target, after }) => {
      const file = readFileSync(join(dirname(page), target), 'utf8')
      return !file.includes(after.slice(2).trim())
    })
    expect(missing).toEqual([])
  })
})
