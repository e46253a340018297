import { outboxContract } from 'outbox-core/testing'
import { fileBackend, memoryBackend } from './backend.ts'

outboxContract(fileBackend)
outboxContract(memoryBackend)
