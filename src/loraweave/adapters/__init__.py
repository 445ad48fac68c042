"""Adapters on disk: the one place where the folder of a trained adapter is read."""
