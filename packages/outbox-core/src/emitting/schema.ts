import type { StandardSchemaV1 } from '@standard-schema/spec'
import { SchemaError } from '../errors.ts'
import type { Stored } from '../stored.ts'

/** A Standard Schema (zod, valibot, arktype …) for each event type that should be checked. */
export type EventSchemas<Events extends object> = {
  readonly [Type in keyof Events]?: StandardSchemaV1<unknown, Received<Events[Type]>>
}

declare const input: unique symbol
declare const output: unique symbol

/** Stands in an event map for a payload whose schema takes one type and makes another of it. */
export interface SchemaPayload<Input, Output> {
  readonly [input]: Input
  readonly [output]: Output
}

/**
 * An event map from schemas: `emit` takes what they take, handlers get what they make of it.
 * `new OutboxEventBus<SchemaEvents<typeof schemas>>(outbox, { schemas })`
 */
export type SchemaEvents<Schemas extends Readonly<Record<string, StandardSchemaV1>>> = {
  [Type in keyof Schemas]: SchemaPayload<
    StandardSchemaV1.InferInput<Schemas[Type]>,
    StandardSchemaV1.InferOutput<Schemas[Type]>
  >
}

/** What `emit` takes for an entry of an event map. */
export type Emitted<Payload> = Payload extends SchemaPayload<infer Input, unknown> ? Input : Payload

/** What a handler gets for it: what its schema makes of it, else what JSON gives back. */
export type Received<Payload> =
  Payload extends SchemaPayload<unknown, infer Output> ? Output : Stored<Payload>

/** What `schema` makes of `payload`. @throws SchemaError with the paths, never the values */
export function validate(
  type: string,
  schema: StandardSchemaV1,
  payload: unknown,
): unknown | Promise<unknown> {
  const result = schema['~standard'].validate(payload)
  return result instanceof Promise
    ? result.then((settled) => outputOf(type, settled))
    : outputOf(type, result)
}

function outputOf(type: string, result: StandardSchemaV1.Result<unknown>): unknown {
  if (result.issues === undefined) return result.value
  throw new SchemaError(type, [...new Set(result.issues.map(({ path }) => pathText(path)))])
}

function pathText(path: StandardSchemaV1.Issue['path']): string {
  return ['$', ...(path ?? []).map((step) => String(typeof step === 'object' ? step.key : step))].join('.')
}
