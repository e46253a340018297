import type { AttributeValue } from '@aws-sdk/client-dynamodb'

/** An item, a key or an expression's values in DynamoDB's own form. */
export type Attributes = Record<string, AttributeValue>

/** What our items are made of. */
type Value = string | number | Uint8Array

/** Values of ours in DynamoDB's own form. */
export function attributes(values: Readonly<Record<string, Value>>): Attributes {
  return mapped(values, attribute)
}

/**
 * An item of ours out of DynamoDB's own form. What is read does not pass the document client's translation, which is the
 * user's to set: numbers may come out of it as anything.
 */
export function plain<Item>(found: Readonly<Attributes>): Item {
  return mapped(found, plainValue) as Item
}

function attribute(value: Value): AttributeValue {
  if (typeof value === 'number') return { N: String(value) }
  return typeof value === 'string' ? { S: value } : { B: value }
}

function plainValue({ S, N, B }: AttributeValue): Value | null {
  if (N !== undefined) return Number(N)
  // A client with `convertEmptyValues` stores what is empty as NULL.
  return S ?? B ?? null
}

function mapped<In, Out>(values: Readonly<Record<string, In>>, map: (value: In) => Out): Record<string, Out> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, map(value)]))
}
