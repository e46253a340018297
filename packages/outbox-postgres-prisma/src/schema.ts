import type { PostgresTableOptions } from 'outbox-core/sql'

/**
 * The outbox's tables as Prisma models, for a `schema.prisma` that should know them (so that `prisma migrate` does not
 * take them for drift). The outbox itself needs no models. Put `postgresMigrations()` into the migration's SQL: Prisma
 * can't express the partial indexes.
 *
 * @param options the same names as the outbox's
 */
export function outboxModels({ tables = {} }: Pick<PostgresTableOptions, 'tables'> = {}): string {
  const { events = 'outbox_events', payloads = 'saga_store', migrations = 'outbox_migrations' } = tables
  return `model OutboxEvent {
  seq         BigInt    @id @default(autoincrement())
  id          String    @unique(map: "${events}_id")
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

  @@map("${events}")
}

model SagaStoreEntry {
  id        String   @id
  data      Bytes
  expiresAt DateTime @map("expires_at") @db.Timestamptz(6)

  @@index([expiresAt], map: "${payloads}_expires")
  @@map("${payloads}")
}

model OutboxMigration {
  version   Int      @id
  appliedAt DateTime @default(now()) @map("applied_at") @db.Timestamptz(6)

  @@map("${migrations}")
}
`
}
