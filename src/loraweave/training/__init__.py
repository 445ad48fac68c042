"""Training: methods by name, the run file, the trainer, and the folder that a run leaves."""
