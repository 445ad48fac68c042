"""What training changed: spectra of the updates, overlap of runs, heads, routing, tasks against each other."""

from loraweave.analysis.numbers import analyze, save

__all__ = ["analyze", "save"]
