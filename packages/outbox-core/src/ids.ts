import { randomFillSync } from 'node:crypto'
import { v7 } from 'uuid'

// Asking the system for 16 bytes costs as much as asking for this many, several times what the rest of an id does.
const pool = new Uint8Array(4096)
let used = pool.length
let lastMs = 0
let sequence = 0

function randomBytes(): Uint8Array {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += 16
  return pool.subarray(used - 16, used)
}

/** A UUID v7 (RFC 9562) that sorts after every one this process made before. */
export function newId(): string {
  const random = randomBytes()
  const now = Date.now()
  if (now > lastMs) {
    lastMs = now
    sequence = new DataView(random.buffer, random.byteOffset).getUint32(0) >>> 1
  } else {
    sequence = (sequence + 1) >>> 0
    if (sequence === 0) lastMs++
  }
  return v7({ random, msecs: lastMs, seq: sequence })
}
