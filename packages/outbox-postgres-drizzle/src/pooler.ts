import { ConfigurationError } from 'outbox-core'

/** The part of a postgres.js client that tells of a pooler. */
interface PostgresJs {
  readonly options: { readonly prepare?: unknown }
  unsafe(
    text: string,
  ): PromiseLike<{ readonly 0?: { readonly pid: unknown }; readonly state?: { readonly pid: number } }>
}

/**
 * postgres.js at its defaults sends COMMIT as a prepared statement. Behind a pooler that hands out another connection for
 * every transaction it may be missing there, and nothing is committed, without an error.
 *
 * @throws ConfigurationError
 */
export async function assertNoPooler(db: object): Promise<void> {
  const { $client: client } = db as { readonly $client?: unknown }
  if (!isPreparing(client)) return
  // What the server says of the connection is not what whoever let us in has said.
  const result = await client.unsafe('SELECT pg_backend_pid()::text AS pid')
  const [told, found] = [result.state?.pid, result[0]?.pid]
  if (told === undefined || found === undefined || told === Number(found)) return
  throw new ConfigurationError(
    'db',
    db,
    'there is a pooler before the server, with which postgres.js loses commits without an error when it prepares ' +
      'statements: use postgres(url, { prepare: false })',
  )
}

function isPreparing(client: unknown): client is PostgresJs {
  const { unsafe, options } = (client ?? {}) as Partial<PostgresJs>
  return typeof client === 'function' && typeof unsafe === 'function' && Boolean(options?.prepare)
}
