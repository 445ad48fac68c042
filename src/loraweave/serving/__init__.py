"""An OpenAI-compatible server for adapters that others cannot run: requests of different tasks share a batch."""
