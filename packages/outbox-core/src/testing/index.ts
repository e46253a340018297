import { describe } from 'vitest'
import { addressingContract } from './addressing-contract.ts'
import type { Backend } from './backend.ts'
import { busContract } from './bus-contract.ts'
import { busStoppingContract } from './bus-stopping-contract.ts'
import { claimContract } from './claim-contract.ts'
import { deadLetterContract } from './dead-letter-contract.ts'
import { emitContract } from './emit-contract.ts'
import { failureContract } from './failure-contract.ts'
import { placeTest } from './harness.ts'
import { heldIdContract } from './held-id-contract.ts'
import { hostileContract } from './hostile-contract.ts'
import { joinedContract } from './joined-contract.ts'
import { lackingContract } from './lacking-contract.ts'
import { limitsContract } from './limits-contract.ts'
import { nestedTransactionContract } from './nested-transaction-contract.ts'
import { orderContract } from './order-contract.ts'
import { refusedContract } from './refused-contract.ts'
import { repeatingContract } from './repeating-contract.ts'
import { sagaContract } from './saga-contract.ts'
import { sagaFaultContract } from './saga-fault-contract.ts'
import { sagaStoreContract } from './saga-store-contract.ts'
import { slipContract } from './slip-contract.ts'
import { storageContract } from './storage-contract.ts'
import { stuckContract } from './stuck-contract.ts'
import { takenContract } from './taken-contract.ts'
import { transactionContract } from './transaction-contract.ts'
import { unawaitedContract } from './unawaited-contract.ts'

export type { Backend, BackendTraits, Place, RawEvent, RawPayload } from './backend.ts'
export { type LogLine, recordingLogger, sleep, takeDue, until } from './harness.ts'
export { ManualClock } from './manual-clock.ts'

/** Registers the tests that every adapter has to pass, on a real server, as vitest tests of the calling file. */
export function outboxContract<Tx, TxOptions>(backend: Backend<Tx, TxOptions>): void {
  describe(backend.name, () => {
    const test = placeTest(backend)
    storageContract(test)
    transactionContract(test)
    nestedTransactionContract(test)
    joinedContract(test)
    unawaitedContract(test)
    emitContract(test)
    repeatingContract(test)
    takenContract(test)
    heldIdContract(test)
    busContract(test)
    busStoppingContract(test)
    addressingContract(test)
    orderContract(test)
    failureContract(test)
    lackingContract(test)
    refusedContract(test)
    deadLetterContract(test)
    sagaStoreContract(test)
    claimContract(test)
    sagaContract(test)
    sagaFaultContract(test)
    slipContract(test)
    stuckContract(test)
    limitsContract(test)
    hostileContract(test)
  })
}
