import { describe } from 'vitest'
import type { Backend } from './backend.ts'
import { busContract } from './bus-contract.ts'
import { claimContract } from './claim-contract.ts'
import { deadLetterContract } from './dead-letter-contract.ts'
import { emitContract } from './emit-contract.ts'
import { placeTest } from './harness.ts'
import { leaseContract } from './lease-contract.ts'
import { payloadContract } from './payload-contract.ts'
import { sagaContract } from './saga-contract.ts'
import { storageContract } from './storage-contract.ts'
import { transactionContract } from './transaction-contract.ts'
import { writeContract } from './write-contract.ts'

export type { Backend, BackendTraits, Place, RawEvent, RawPayload } from './backend.ts'
export { type LogLine, recordingLogger, sleep, until } from './harness.ts'
export { ManualClock } from './manual-clock.ts'

/** Registers the tests that every adapter has to pass, on a real server, as vitest tests of the calling file. */
export function outboxContract<Tx, TxOptions>(backend: Backend<Tx, TxOptions>): void {
  describe(backend.name, () => {
    const test = placeTest(backend)
    writeContract(test)
    leaseContract(test)
    deadLetterContract(test)
    payloadContract(test)
    transactionContract(test)
    storageContract(test)
    emitContract(test)
    busContract(test)
    claimContract(test)
    sagaContract(test)
  })
}
