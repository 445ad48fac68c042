"""Weave adapters in other people's trainers."""
