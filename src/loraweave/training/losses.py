"""The loss of each task, added up on the device from the same per-token losses that are trained on."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from loraweave.errors import UserError


class TaskLosses:
    """Sums and counts per task, and the first step at which a task's loss was not a number.

    Nothing here waits for the device until `read` or `check` is called.

    Args:
        names: the tasks in the order of their ids.
        device: where the losses are.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.sums = torch.zeros(
            len(names), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )
        self.counts = torch.zeros_like(self.sums)
        self.bad = torch.zeros(len(names), dtype=torch.bool, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.long, device=device)

    def add(self, losses: Tensor, tasks: Tensor, step: int) -> None:
        """Add the tokens of one forward pass.

        Args:
            losses: (n,) of the scored tokens, detached.
            tasks: (n,) their task ids.
            step: the optimizer step that they belong to, for messages.
        """
        losses = losses.to(self.sums.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, tasks, losses)
        self.sums += sums
        self.counts.index_add_(0, tasks, torch.ones_like(losses))
        bad = ~sums.isfinite()
        first = bad.any() & (self.bad_step < 0)
        self.bad = torch.where(first, bad, self.bad)
        self.bad_step = self.bad_step.masked_fill(first, step)

    def check(self) -> None:
        """Raises UserError, naming the step and the tasks, if a loss was not a number."""
        if (step := int(self.bad_step)) < 0:
            return
        bad = ", ".join(name for name, is_bad in zip(self.names, self.bad.tolist(), strict=True) if is_bad)
        raise UserError(
            f"the loss became NaN or infinite at step {step}, on {bad}; nothing was saved since. "
            "A lower train.learning_rate is the usual cure"
        )

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The mean loss per token since the last reading, over all processes: of each task that had any, and of all
        tokens under the name "". Then start anew."""
        sums, counts = accelerator.reduce(torch.stack([self.sums, self.counts]), "sum").tolist()
        self.sums.zero_()
        self.counts.zero_()
        return {n: s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c > 0} | (
            {"": sum(sums) / sum(counts)} if sum(counts) else {}
        )
