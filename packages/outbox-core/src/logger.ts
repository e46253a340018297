/** A logger shaped like pino's: fields first, then a message. Any pino instance fits. */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

const nothing = (): void => {}

/** Logs nothing. */
export const silentLogger: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing }

/** What is used when no logger is given: warnings and errors on the console, nothing else. */
export const consoleLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: (fields, message) => console.warn(`outbox: ${message}`, fields),
  error: (fields, message) => console.error(`outbox: ${message}`, fields),
}

/** A logger that adds `bound` to the fields of every line. */
export function withFields(logger: Logger, bound: object): Logger {
  return {
    debug: (fields, message) => logger.debug({ ...bound, ...fields }, message),
    info: (fields, message) => logger.info({ ...bound, ...fields }, message),
    warn: (fields, message) => logger.warn({ ...bound, ...fields }, message),
    error: (fields, message) => logger.error({ ...bound, ...fields }, message),
  }
}
