"""Whether a search for learning rates on shorter trainings, in rounds, chooses what the usual search chooses."""
