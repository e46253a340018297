import { type PostgresTableOptions, postgresMigrations, postgresTables } from 'outbox-core/sql'

/**
 * The outbox's tables as Prisma models, for a `schema.prisma` that should know them, so that `prisma migrate` does not
 * take them for drift. The outbox itself needs no models. Put `outboxMigrationSql()` into the migration: Prisma can't
 * express the partial indexes.
 *
 * @param options the same names as the outbox's
 * @throws ConfigurationError naming the option and its value
 */
export function outboxModels(options: PostgresTableOptions = {}): string {
  const { names } = postgresTables(options)
  const map = (table: string): string =>
    `@@map("${table}")${options.schema === undefined ? '' : `\n  @@schema("${options.schema}")`}`
  return `model OutboxEvent {
  id          String    @id
  seq         BigInt    @default(autoincrement())
  type        String
  body        String
  headers     String
  fingerprint String?
  createdAt   DateTime  @map("created_at") @db.Timestamptz(6)
  visibleAt   DateTime  @map("visible_at") @db.Timestamptz(6)
  attempt     Int       @default(0)
  uncounted   Int       @default(0)
  state       Int       @default(0) @db.SmallInt
  error       String?
  diedAt      DateTime? @map("died_at") @db.Timestamptz(6)
  address     String?
  key         String?
  place       BigInt[]

  ${map(names.events)}
}

model SagaStoreEntry {
  id        String   @id
  data      Bytes
  expiresAt DateTime @map("expires_at") @db.Timestamptz(6)

  @@index([expiresAt], map: "${names.payloads}_expires")
  ${map(names.payloads)}
}

model OutboxKey {
  key     String @id
  version BigInt

  ${map(names.keys)}
}

model OutboxMigration {
  tables    String
  version   Int
  appliedAt DateTime @default(now()) @map("applied_at") @db.Timestamptz(6)

  @@id([tables, version])
  ${map(names.migrations)}
}
`
}

/**
 * The SQL that creates the outbox's tables, for an empty migration of `prisma migrate dev --create-only`.
 *
 * @param options the same names as the outbox's
 * @throws ConfigurationError naming the option and its value
 */
export function outboxMigrationSql(options: PostgresTableOptions = {}): string {
  return postgresMigrations(options)
    .flat()
    .map((statement) => `${statement.replace(/^ {6}/gm, '')};\n`)
    .join('\n')
}
