import type { Server } from './server.ts'

export interface DockerService {
  readonly image: string
  readonly port: number
  readonly command?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  url(host: string, port: number): string
}

/** Whether a Docker daemon answers. */
export async function dockerRuns(): Promise<boolean> {
  try {
    const { getContainerRuntimeClient } = await import('testcontainers')
    await getContainerRuntimeClient()
    return true
  } catch {
    return false
  }
}

export async function startInDocker(service: DockerService): Promise<Server> {
  const { GenericContainer } = await import('testcontainers')
  let container = new GenericContainer(service.image).withExposedPorts(service.port)
  if (service.command) container = container.withCommand([...service.command])
  if (service.environment) container = container.withEnvironment({ ...service.environment })
  const started = await container.start()
  return {
    url: service.url(started.getHost(), started.getMappedPort(service.port)),
    source: `Docker, ${service.image}`,
    stop: async () => void (await started.stop()),
  }
}
