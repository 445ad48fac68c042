"""What a run comes to, without its weights: counts, tasks, memory."""
