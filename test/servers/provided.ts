import { inject } from 'vitest'

declare module 'vitest' {
  export interface ProvidedContext {
    serverUrl: string | undefined
  }
}

/** The URL of the server that this project's tests run on; undefined when there is none and they have to be skipped. */
export function serverUrl(): string | undefined {
  return inject('serverUrl')
}
