"""From the examples of tasks to batches: tokens, the mixture, rows, packs."""
