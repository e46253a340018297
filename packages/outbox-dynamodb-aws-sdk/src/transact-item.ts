import type { TransactWriteCommandInput } from '@aws-sdk/lib-dynamodb'

/** One item of a TransactWriteItems, as lib-dynamodb takes it. */
export type TransactItem = NonNullable<TransactWriteCommandInput['TransactItems']>[number]
