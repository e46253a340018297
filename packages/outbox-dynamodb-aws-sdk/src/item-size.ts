/** What DynamoDB takes in one item. */
export const ITEM_BYTES: number = 400 * 1024

/** Bytes of an item as DynamoDB counts them: names and values, and its overhead for numbers and nesting. */
export function itemBytes(item: Readonly<Record<string, unknown>>): number {
  return Object.entries(item).reduce(
    (sum, [name, value]) => sum + (value === undefined ? 0 : Buffer.byteLength(name) + valueBytes(value)),
    0,
  )
}

// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
function valueBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (isNumber(value)) return numberBytes(String(value))
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return value.byteLength
  if (Array.isArray(value)) return value.reduce((sum: number, element) => sum + 1 + valueBytes(element), 3)
  if (value instanceof Set) return [...value].reduce((sum: number, element) => sum + valueBytes(element), 0)
  if (value instanceof Map) return valueBytes(Object.fromEntries(value))
  if (typeof value === 'object' && value !== null) {
    return 3 + Object.keys(value).length + itemBytes(value as Record<string, unknown>)
  }
  return 1
}

/** Numbers, bigints, and lib-dynamodb's NumberValue. */
export function isNumber(value: unknown): boolean {
  return (
    typeof value === 'number' ||
    typeof value === 'bigint' ||
    (typeof value === 'object' && value !== null && 'toAttributeValue' in value)
  )
}

// One byte, one for a minus, and one for every two digits beside the point, without the zeros at both ends.
function numberBytes(text: string): number {
  const [, minus = '', whole = '', part = '', exponent = '0'] =
    /^(-?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text) ?? []
  const point = whole.length + Number(exponent)
  const digits = `${point % 2 === 0 ? '' : '0'}${whole}${part}`
  const pairs = (digits.length % 2 === 0 ? digits : `${digits}0`).match(/../g) ?? []
  const first = pairs.findIndex((pair) => pair !== '00')
  if (first === -1) return 1
  return 1 + minus.length + pairs.findLastIndex((pair) => pair !== '00') - first + 1
}
