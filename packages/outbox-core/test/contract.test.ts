import { outboxContract } from '../src/testing/index.ts'
import { memoryBackend } from './memory-backend.ts'

outboxContract(memoryBackend)
