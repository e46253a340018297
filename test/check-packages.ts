/**
 * Packs every package and checks what users would get: publint, whether its types resolve, and whether the README's
 * first code block runs in an empty project that has installed nothing but the packages it imports.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Runs a command, and says what it said when it failed. */
function check(what: string, program: string, args: readonly string[], cwd = '.'): boolean {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: 'utf8' })
  console.log(`${status === 0 ? 'ok' : 'FAILED'} ${what}`)
  if (status !== 0) console.log(stdout, stderr)
  return status === 0
}

function checkFirstExample(): boolean {
  const project = mkdtempSync(join(tmpdir(), 'outbox-packed-'))
  const packages = ['outbox-core', 'outbox-sqlite-better-sqlite3']
  try {
    const { version } = JSON.parse(readFileSync('packages/outbox-core/package.json', 'utf8'))
    const { devDependencies } = JSON.parse(readFileSync('package.json', 'utf8'))
    const tarballs = packages.map((name) => `./${name}-${version}.tgz`)
    const driver = `better-sqlite3@${devDependencies['better-sqlite3']}`
    const quietly = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts']
    writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
    copyFileSync('examples/first/main.ts', join(project, 'main.ts'))
    return (
      check('npm pack', 'npm', [
        'pack',
        ...packages.map((name) => `./packages/${name}`),
        '--pack-destination',
        project,
      ]) &&
      check(
        'npm install in an empty project',
        'npm',
        ['install', ...quietly, ...tarballs, driver],
        project,
      ) &&
      check("the README's first code block there", process.execPath, ['main.ts'], project)
    )
  } finally {
    rmSync(project, { recursive: true })
  }
}

const results = readdirSync('packages').flatMap((name) => [
  check(`publint ${name}`, 'node_modules/.bin/publint', [`packages/${name}`, '--strict']),
  check(`attw ${name}`, 'node_modules/.bin/attw', ['--pack', `packages/${name}`, '--profile', 'esm-only']),
])
results.push(checkFirstExample())
process.exitCode = results.every(Boolean) ? 0 : 1
