import { describe } from 'vitest'
import type { Backend } from './backend.ts'
import { busContract } from './bus-contract.ts'
import { busStoppingContract } from './bus-stopping-contract.ts'
import { claimContract } from './claim-contract.ts'
import { deadLetterContract } from './dead-letter-contract.ts'
import { emitContract } from './emit-contract.ts'
import { placeTest } from './harness.ts'
import { hostileContract } from './hostile-contract.ts'
import { limitsContract } from './limits-contract.ts'
import { sagaContract } from './saga-contract.ts'
import { sagaFaultContract } from './saga-fault-contract.ts'
import { sagaStoreContract } from './saga-store-contract.ts'
import { storageContract } from './storage-contract.ts'
import { transactionContract } from './transaction-contract.ts'

export type { Backend, BackendTraits, Place, RawEvent, RawPayload } from './backend.ts'
export { type LogLine, recordingLogger, sleep, until } from './harness.ts'
export { ManualClock } from './manual-clock.ts'

/** Registers the tests that every adapter has to pass, on a real server, as vitest tests of the calling file. */
export function outboxContract<Tx, TxOptions>(backend: Backend<Tx, TxOptions>): void {
  describe(backend.name, () => {
    const test = placeTest(backend)
    storageContract(test)
    transactionContract(test)
    emitContract(test)
    busContract(test)
    busStoppingContract(test)
    deadLetterContract(test)
    sagaStoreContract(test)
    claimContract(test)
    sagaContract(test)
    sagaFaultContract(test)
    limitsContract(test)
    hostileContract(test)
  })
}
