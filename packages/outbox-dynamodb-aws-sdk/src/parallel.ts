// The SDK's default agent opens at most 50 sockets.
const AT_ONCE = 25

/** Does all of it, some at once; results in order. */
export async function parallel<In, Out>(
  inputs: readonly In[],
  work: (input: In) => Promise<Out>,
): Promise<Out[]> {
  const results: Out[] = []
  let next = 0
  const worker = async (): Promise<void> => {
    for (let index = next++; index < inputs.length; index = next++) {
      results[index] = await work(inputs[index] as In)
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, inputs.length) }, worker))
  return results
}
