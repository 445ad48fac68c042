"""How many rows a run trains on: steps, rows per step, epochs that end early."""

import math
from dataclasses import dataclass

from transformers import TrainingArguments


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

    @classmethod
    def of(cls, args: TrainingArguments) -> "Schedule":
        """How long the Trainer makes a run with these arguments."""
        rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        return cls(rows, args.num_train_epochs, max(0, args.max_steps))

    def steps(self, rows_per_epoch: int) -> int:
        """Optimizer steps of the run."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(rows_per_epoch / self.rows_per_step))

    def epochs_begun(self, rows_per_epoch: int) -> int:
        """Epochs that it takes rows from."""
        return math.ceil(self.steps(rows_per_epoch) / math.ceil(rows_per_epoch / self.rows_per_step))

    def rows(self, rows_per_epoch: int) -> int:
        """Rows that it will have trained on at its end."""
        return self.rows_after(self.steps(rows_per_epoch), rows_per_epoch)

    def rows_after(self, steps: int, rows_per_epoch: int) -> int:
        """Rows trained on after so many steps; the last step of an epoch may hold fewer than the others."""
        epochs, rest = divmod(steps, math.ceil(rows_per_epoch / self.rows_per_step))
        return epochs * rows_per_epoch + min(rows_per_epoch, rest * self.rows_per_step)
