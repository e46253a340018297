import type { StandardSchemaV1 } from '@standard-schema/spec'
import { SchemaError } from '../errors.ts'

/** A Standard Schema (zod, valibot, arktype …) for each event type that should be checked. */
export type EventSchemas<Events extends object> = {
  readonly [Type in keyof Events]?: StandardSchemaV1<unknown, Events[Type]>
}

/** What `schema` makes of `payload`. @throws SchemaError with the paths, never the values */
export function validate(
  type: string,
  schema: StandardSchemaV1,
  payload: unknown,
): unknown | Promise<unknown> {
  const result = schema['~standard'].validate(payload)
  return result instanceof Promise ? result.then((settled) => output(type, settled)) : output(type, result)
}

function output(type: string, result: StandardSchemaV1.Result<unknown>): unknown {
  if (result.issues === undefined) return result.value
  throw new SchemaError(type, [...new Set(result.issues.map(({ path }) => pathText(path)))])
}

function pathText(path: StandardSchemaV1.Issue['path']): string {
  return ['$', ...(path ?? []).map((step) => String(typeof step === 'object' ? step.key : step))].join('.')
}
