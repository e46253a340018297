import type { NewEvent, Outcome, PayloadRecord, Settlement, When } from 'outbox-core'

type Argument = string | Buffer

/** Outcomes as the arguments of the write script. */
export function writeArguments(prefix: string, outcomes: readonly Outcome[]): Argument[] {
  return [prefix, String(outcomes.length), ...outcomes.flatMap(outcomeArguments)]
}

function outcomeArguments({ settle, append, put, remove }: Outcome): Argument[] {
  return [
    ...(settle ? settlementArguments(settle) : ['']),
    String(append.length),
    ...append.flatMap(eventArguments),
    String(put.length),
    ...put.flatMap(payloadArguments),
    String(remove.length),
    ...remove,
  ]
}

function settlementArguments(settle: Settlement): Argument[] {
  const { kind, id, attempt } = settle
  const ms = kind === 'complete' ? settle.keepMs : kind === 'retry' ? settle.delayMs : 0
  const error = kind === 'bury' || kind === 'retry' ? (settle.error ?? '') : ''
  const counted = kind === 'retry' && !settle.counted ? '0' : '1'
  return [kind, id, String(attempt), String(ms), error, counted]
}

function eventArguments({ id, type, body, headers, due, fingerprint }: NewEvent): Argument[] {
  return [id, type, body, JSON.stringify(headers), ...whenArguments(due), fingerprint ?? '']
}

function payloadArguments({ id, data, expires }: PayloadRecord): Argument[] {
  // A copy: in a MULTI the bytes are sent later, when the caller may have reused them.
  return [id, Buffer.from(data), ...whenArguments(expires)]
}

function whenArguments(when: When): [string, string] {
  return 'at' in when ? [String(Math.round(when.at)), ''] : ['', String(when.inMs)]
}
