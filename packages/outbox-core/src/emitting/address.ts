const SEPARATOR = '#'

/** Where events of a type go that not every worker of that type can handle. */
export function addressOf(type: string, recipient: string): string {
  return `${type}${SEPARATOR}${recipient}`
}

export function typeOf(address: string): string {
  const end = address.indexOf(SEPARATOR)
  return end === -1 ? address : address.slice(0, end)
}

/** To whom of a type in particular; undefined for nobody. */
export function addressedTo(address: string): string | undefined {
  const end = address.indexOf(SEPARATOR)
  return end === -1 ? undefined : address.slice(end + 1)
}
