"""From which cosine on an expert answers: own prompts that are kept, and strangers that are let in."""
