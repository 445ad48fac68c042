"""How many rows a run trains on: steps, rows per step, epochs that end early."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The length of a run.

    Attributes:
        rows_per_step: over all micro-batches and processes.
        epochs: that it lasts, where `max_steps` does not say; may be a fraction.
        max_steps: optimizer steps, or 0 to count by epochs.
    """

    rows_per_step: int
    epochs: float
    max_steps: int = 0

    def steps(self, rows_per_epoch: int) -> int:
        """Optimizer steps of the run."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(rows_per_epoch / self.rows_per_step))

    def rows(self, rows_per_epoch: int) -> int:
        """Rows that it will have trained on at its end; the last step of an epoch may hold fewer than the others."""
        epochs, rest = divmod(self.steps(rows_per_epoch), math.ceil(rows_per_epoch / self.rows_per_step))
        return epochs * rows_per_epoch + min(rows_per_epoch, rest * self.rows_per_step)
