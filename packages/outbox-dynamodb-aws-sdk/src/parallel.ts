// The SDK's default agent opens at most 50 sockets.
const AT_ONCE = 25

/** Does all of it, some at once; results in order. What fails is thrown when everything has ended. */
export async function parallel<In, Out>(
  inputs: readonly In[],
  work: (input: In) => Promise<Out>,
): Promise<Out[]> {
  const attempts = await attempted(inputs, work)
  return attempts.map((attempt) => {
    if (attempt.status === 'rejected') throw attempt.reason
    return attempt.value
  })
}

/** All results of what did not fail. Throws only when something failed and nothing else had a result. */
export async function whatSucceeds<In, Out>(
  inputs: readonly In[],
  work: (input: In) => Promise<readonly Out[]>,
): Promise<Out[]> {
  const attempts = await attempted(inputs, work)
  const results = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? attempt.value : []))
  const failed = attempts.find((attempt) => attempt.status === 'rejected')
  if (failed && results.length === 0) throw failed.reason
  return results
}

/** What became of each. */
export async function attempted<In, Out>(
  inputs: readonly In[],
  work: (input: In) => Promise<Out>,
): Promise<PromiseSettledResult<Out>[]> {
  const attempts: PromiseSettledResult<Out>[] = []
  let next = 0
  const worker = async (): Promise<void> => {
    for (let index = next++; index < inputs.length; index = next++) {
      const [attempt] = await Promise.allSettled([work(inputs[index] as In)])
      attempts[index] = attempt
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, inputs.length) }, worker))
  return attempts
}
