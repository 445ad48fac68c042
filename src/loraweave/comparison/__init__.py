"""Methods × seeds on the same data: the runs, the table, the page."""

from loraweave.comparison.compare import compare
from loraweave.comparison.results import Results
from loraweave.comparison.table import comparison_table

__all__ = ["Results", "compare", "comparison_table"]
