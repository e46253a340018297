import { setTimeout as sleep } from 'node:timers/promises'
import { NotInitializedError, StorageError, UnsupportedBackendError } from '../errors.ts'
import { assertKnownSchema } from '../schema-version.ts'
import { toError } from '../thrown.ts'
import { isForbidden, isInTheWay, postgresError } from './errors.ts'
import type { PostgresExecutor } from './executor.ts'
import {
  createNotes,
  type MigrationStep,
  migrationSteps,
  note,
  notedAs,
  type PostgresTables,
} from './schema.ts'

// Everybody who writes to a table waits behind a statement that waits for it: it gives way, and is tried again.
const LOCK_TIMEOUT_MS = 100
const LONGEST_PAUSE_MS = 2_000
const GIVE_UP_AFTER_MS = 300_000

// What only speeds things up is left to the next start, where nobody gives way to it.
const MOST_TRIES_TO_TUNE = 5

/**
 * Brings the tables up to date, in one transaction that other processes let go first. What is noted, or what the catalog
 * shows, is not done again: where nothing is left to do it only looks, so that a role without any right to create may
 * call it too.
 *
 * @throws NewerSchemaError when a newer version has noted what it did
 * @throws NotInitializedError when something is missing that the role may not create
 */
export async function migratePostgres<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  tables: PostgresTables,
): Promise<void> {
  await executor.assertUsable?.()
  const giveUpAt = Date.now() + GIVE_UP_AFTER_MS
  for (let tries = 1; ; tries++) {
    const missing = await stepsMissing(executor, tables)
    if (missing.length === 0) return
    if (await applied(executor, tables)) return
    if (missing.every(({ tunes }) => tunes) && tries === MOST_TRIES_TO_TUNE) return
    if (Date.now() > giveUpAt) {
      throw new StorageError(
        `other transactions have not let go of the outbox’s tables for ${GIVE_UP_AFTER_MS / 60_000} minutes, so that they ` +
          'could not be brought up to date; end those that pg_stat_activity shows, and call outbox.initialize() again',
        { transient: true },
      )
    }
    await sleep(Math.min(LOCK_TIMEOUT_MS * tries, LONGEST_PAUSE_MS) * (1 + Math.random()))
  }
}

/** One try. @returns false when somebody else was in the way */
async function applied<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  tables: PostgresTables,
): Promise<boolean> {
  const work = async (tx: Tx): Promise<boolean> => {
    const run = (text: string, ...parameters: string[]) => executor.query(text, parameters, tx)
    // What others did before this one got the lock has to be seen, whatever isolation is the default.
    await run('SET TRANSACTION ISOLATION LEVEL READ COMMITTED')
    await run(`SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}`)
    await run('SET LOCAL statement_timeout = 0')
    const [turn] = await run(
      'SELECT pg_try_advisory_xact_lock(hashtext($1::text))::int AS taken',
      tables.migrations,
    )
    if (Number((turn as { taken: number }).taken) === 0) return false
    const missing = await stepsMissing(executor, tables, tx)
    if (missing.length === 0) return true
    await run(createNotes(tables))
    for (const { text } of missing) await run(text)
    for (const [index] of migrationSteps(tables).entries()) await run(note(tables, index + 1))
    return true
  }
  try {
    return await executor.transaction(work, executor.patient)
  } catch (error) {
    if (isInTheWay(error)) return false
    throw isForbidden(error) ? forbidden(error) : error
  }
}

/** What is neither noted nor shown by the catalog, without what this role may not do and nobody needs. */
async function stepsMissing<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  tables: PostgresTables,
  tx?: Tx,
): Promise<MigrationStep[]> {
  const wanted = migrationSteps(tables)
  const facts = await catalogFacts(executor, tables, tx)
  if (facts.has('readable notes')) {
    const noted = await notedVersion(executor, tables, tx)
    assertKnownSchema(`table ${tables.events}`, noted, wanted.length)
    if (noted === wanted.length) return []
  }
  const missing = wanted.flat().filter(({ shows, undone = shows }) => !facts.has(shows) && !facts.has(undone))
  const optional = missing.every(({ tunes }) => tunes)
  return optional && !facts.has('owner') ? [] : missing
}

async function notedVersion<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  tables: PostgresTables,
  tx?: Tx,
): Promise<number> {
  const text = `SELECT coalesce(max(version), 0)::int AS done FROM ${tables.migrations} WHERE tables = $1::text`
  const [row] = await executor.query(text, [notedAs(tables)], tx)
  return Number((row as { done: number }).done)
}

/** In the words of `MigrationStep.shows`; beside that, whether notes can be read, and whether the tables are the role's. */
async function catalogFacts<Tx, TxOptions>(
  executor: PostgresExecutor<Tx, TxOptions>,
  { events, payloads, keys, migrations, names }: PostgresTables,
  tx?: Tx,
): Promise<Set<string>> {
  const text = `WITH place AS (
      SELECT to_regclass($1::text) AS events, to_regclass($2::text) AS payloads, to_regclass($3::text) AS migrations,
        to_regclass($4::text) AS keys
    ), facts (fact) AS (
      SELECT 'encoding ' || current_setting('server_encoding')
      UNION ALL SELECT 'table events' FROM place WHERE events IS NOT NULL
      UNION ALL SELECT 'table payloads' FROM place WHERE payloads IS NOT NULL
      UNION ALL SELECT 'table keys' FROM place WHERE keys IS NOT NULL
      UNION ALL SELECT 'readable notes' FROM place WHERE has_table_privilege(migrations, 'SELECT')
      UNION ALL SELECT 'owner' FROM place WHERE NOT EXISTS (
        SELECT FROM pg_class WHERE oid IN (events, payloads, keys) AND NOT pg_has_role(relowner, 'USAGE'))
      UNION ALL SELECT 'index ' || relname FROM place, pg_index JOIN pg_class ON oid = indexrelid
        WHERE indrelid IN (events, payloads) AND indisvalid
      UNION ALL SELECT 'leases by address only' FROM place WHERE events IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = events AND relname = $5::text)
      UNION ALL SELECT 'column ' || attname FROM place, pg_attribute WHERE attrelid = events AND NOT attisdropped
      UNION ALL SELECT 'option ' || CASE oid WHEN keys THEN 'of keys ' ELSE '' END || split_part(option, '=', 1) FROM place, pg_class, unnest(reloptions) AS option
        WHERE oid IN (events, keys)
      UNION ALL SELECT 'external ' || attname FROM place, pg_attribute
        WHERE attrelid IN (events, payloads) AND attstorage = 'e'
    ) SELECT fact::text AS fact FROM facts`
  const rows = await executor.query(text, [events, payloads, migrations, keys, `${names.events}_open`], tx)
  const facts = new Set(rows.map((row) => String((row as { fact?: string }).fact)))
  const encoding = [...facts].find((fact) => fact.startsWith('encoding '))?.slice('encoding '.length)
  if (encoding === undefined) {
    throw new UnsupportedBackendError(
      'the client does not hand out rows as Postgres sends them (a transform of rows, columns or values is set); ' +
        'give the outbox a client without, or with postgres.camel at the most',
    )
  }
  if (encoding === 'UTF8') return facts
  throw new UnsupportedBackendError(
    `the database has the encoding ${encoding}, which can't hold every text; use one created with ENCODING 'UTF8'`,
  )
}

function forbidden(thrown: unknown): NotInitializedError {
  const { cause, message } = postgresError(thrown)
  return new NotInitializedError(
    `this role may not bring the outbox’s tables up to date (${cause ? toError(cause).message : message}); run what ` +
      'postgresMigrations() returns, or outbox.initialize(), once as their owner',
    { cause },
  )
}
