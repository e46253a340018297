import type { PlaceTest } from './harness.ts'
import { addressContract } from './storage/addresses.ts'
import { appendingContract } from './storage/appending.ts'
import { deadLetterStorageContract } from './storage/dead-letters.ts'
import { duplicateContract } from './storage/duplicates.ts'
import { extendingContract } from './storage/extending.ts'
import { keepingContract } from './storage/keeping.ts'
import { keyContract } from './storage/keys.ts'
import { leasingContract } from './storage/leasing.ts'
import { nestedContract } from './storage/nested.ts'
import { outcomeContract } from './storage/outcomes.ts'
import { payloadStorageContract } from './storage/payloads.ts'
import { purgeContract } from './storage/purge.ts'
import { refusingContract } from './storage/refusing.ts'
import { retryingContract } from './storage/retrying.ts'
import { settlingContract } from './storage/settling.ts'
import { siblingContract } from './storage/siblings.ts'
import { statsContract } from './storage/stats.ts'
import { storageTransactionContract } from './storage/transactions.ts'

/** Every promise of the seam's docblocks, asked of the storage itself. */
export function storageContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  appendingContract(test)
  leasingContract(test)
  addressContract(test)
  keyContract(test)
  extendingContract(test)
  outcomeContract(test)
  settlingContract(test)
  keepingContract(test)
  retryingContract(test)
  duplicateContract(test)
  deadLetterStorageContract(test)
  payloadStorageContract(test)
  purgeContract(test)
  statsContract(test)
  storageTransactionContract(test)
  nestedContract(test)
  refusingContract(test)
  siblingContract(test)
}
