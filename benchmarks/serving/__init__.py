"""The server under load: throughput, time to first token and memory; and a soak in which every answer is checked."""
