import type { PlaceTest } from './harness.ts'
import { deadLetterStorageContract } from './storage/dead-letters.ts'
import { duplicateContract } from './storage/duplicates.ts'
import { leasingContract } from './storage/leasing.ts'
import { payloadStorageContract } from './storage/payloads.ts'
import { purgeContract } from './storage/purge.ts'
import { settlingContract } from './storage/settling.ts'
import { siblingContract } from './storage/siblings.ts'
import { storageTransactionContract } from './storage/transactions.ts'

/** Every promise of the seam's docblocks, asked of the storage itself. */
export function storageContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  settlingContract(test)
  duplicateContract(test)
  leasingContract(test)
  deadLetterStorageContract(test)
  payloadStorageContract(test)
  purgeContract(test)
  storageTransactionContract(test)
  siblingContract(test)
}
