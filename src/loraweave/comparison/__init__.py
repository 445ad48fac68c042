"""Methods × learning rates × seeds on the same data: the runs, what can be told apart, what to take, the page."""

from loraweave.comparison.loop import compare
from loraweave.comparison.outcome import Comparison
from loraweave.comparison.records import Results
from loraweave.comparison.table import comparison_table
from loraweave.comparison.verdicts import differences_table, recommendation

__all__ = ["Comparison", "Results", "compare", "comparison_table", "differences_table", "recommendation"]
