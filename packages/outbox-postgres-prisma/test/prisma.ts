import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { PrismaPg } from '@prisma/adapter-pg'
import type { Client } from '../../../test/postgres-backend.ts'
import {
  outboxModels,
  PostgresPrismaOutbox,
  type PrismaClientLike,
  type PrismaTransaction,
  type PrismaTransactionOptions,
} from '../src/index.ts'

export interface TestPrisma extends PrismaClientLike<PrismaTransaction> {
  $on(event: 'query', listener: () => void): void
  $disconnect(): Promise<void>
  $extends(extension: object): TestPrisma
}

export type TestPrismaConstructor = new (options: object) => TestPrisma

/** A folder for a client of a test's own: test files run side by side, and so do their generators. */
export function generatedFolder(name: string): string {
  return fileURLToPath(new URL(`generated/${name}`, import.meta.url))
}

/** Prisma's generators, and the file of theirs that a user imports. */
const GENERATORS = {
  'prisma-client': {
    options: 'moduleFormat = "esm"\n  generatedFileExtension = "ts"\n  importFileExtension = "ts"',
    file: 'client.ts',
  },
  'prisma-client-js': { options: '', file: 'index.js' },
} as const

type Generator = keyof typeof GENERATORS

/** Generates a client with the outbox's models, as a user would; the schema engine is not needed for that. */
export async function generateClient(
  folder: string,
  generator: Generator = 'prisma-client',
): Promise<TestPrismaConstructor> {
  mkdirSync(folder, { recursive: true })
  const schema = `generator client {
  provider = "${generator}"
  output   = "./client"
  ${GENERATORS[generator].options}
}

datasource db {
  provider = "postgresql"
}

${outboxModels()}`
  writeFileSync(join(folder, 'schema.prisma'), schema)
  const env = {
    ...process.env,
    PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true',
    CHECKPOINT_DISABLE: '1',
    PRISMA_HIDE_UPDATE_MESSAGE: '1',
  }
  const prisma = fileURLToPath(new URL('../../../node_modules/prisma/build/index.js', import.meta.url))
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    [prisma, 'generate', '--schema', join(folder, 'schema.prisma')],
    {
      env,
      encoding: 'utf8',
      cwd: folder,
    },
  )
  if (status !== 0) throw new Error(`prisma generate failed: ${stderr}${stdout}`)
  return loadClient(folder, generator)
}

/** The client that was generated into a folder. */
export async function loadClient(
  folder: string,
  generator: Generator = 'prisma-client',
): Promise<TestPrismaConstructor> {
  const generated = await import(pathToFileURL(join(folder, 'client', GENERATORS[generator].file)).href)
  return generated.PrismaClient ?? generated.default.PrismaClient
}

export async function connect(
  PrismaClient: TestPrismaConstructor,
  url: string,
  applicationName: string,
  max = 4,
): Promise<Client<PrismaTransaction, PrismaTransactionOptions> & { prisma: TestPrisma }> {
  let statements = 0
  const adapter = new PrismaPg({ connectionString: url, application_name: applicationName, max, min: max })
  const prisma = new PrismaClient({ adapter, log: [{ emit: 'event', level: 'query' }] })
  prisma.$on('query', () => statements++)
  // Every connection is there from the start, so that one more would be seen.
  await Promise.all(Array.from({ length: max }, () => prisma.$queryRawUnsafe('SELECT 1 FROM pg_sleep(0.02)')))
  return {
    prisma,
    outbox: (options) => new PostgresPrismaOutbox(prisma, options),
    execute: async (tx, text, key) => tx.$executeRawUnsafe(text, key),
    transaction: async (work) => prisma.$transaction(work),
    statements: () => statements,
    close: () => prisma.$disconnect(),
  }
}
