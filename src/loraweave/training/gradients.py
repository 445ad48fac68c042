"""Whether the tasks pull the trained weights the same way: cosines of their gradients, recorded beside the training.

At the start, in the middle and at the end of a run every task gets a few forward and backward passes of its own.
Training does not notice: the model is in evaluation mode, gradients do not go into `.grad`, and random numbers are put
back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import TrainerCallback

from loraweave.data.rows import TokenRows
from loraweave.errors import in_a_line
from loraweave.files import read_json, write_json
from loraweave.training.callbacks import Clock
from loraweave.training.unnoticed import unnoticed

if TYPE_CHECKING:
    from loraweave.training.trainer import MultiTaskTrainer

SHARE = 0.005  # of the run's examples that all passes together may read: some 1 % of its time, 2 % of a tiny model's
FEWEST, MOST = 2, 16  # examples per task, whatever the share
HELD = 2**28  # numbers of all tasks' gradients held at a time, 1 GiB


class GradientRecord(TrainerCallback):
    """Keep the cosines of the tasks' gradients in a file.

    `steps` in it has an entry for each of the three times: `step`; `share`, of the run that is done; `cosine` (K, K)
    between the gradients of the tasks' losses with respect to all trained parameters; their `norms` (K,); and `within`
    (K,), the cosine between two halves of a task's own examples: what few examples leave of an agreement of 1; `noise`,
    the standard error of a cosine between two tasks that few examples leave.

    Args:
        path: of the file.
        task_names: the tasks in the order of their ids.
        sources: rows to take examples from: the first that has enough of a task.
        examples_of_run: how many examples the run trains on.
        clock: stopped meanwhile.
        console: where it is said that nothing could be recorded.

    Attributes:
        trainer: set once it exists.
    """

    def __init__(
        self,
        path: Path,
        task_names: Sequence[str],
        sources: Sequence[TokenRows],
        examples_of_run: int,
        clock: Clock,
        console: Console,
    ) -> None:
        self.path = path
        self.clock = clock
        self.console = console
        self.trainer: MultiTaskTrainer | None = None
        per_task = int(SHARE * examples_of_run / (3 * len(task_names)))
        self.examples = [_spread(sources, task, min(max(per_task, FEWEST), MOST)) for task in range(len(task_names))]
        self.record: dict[str, Any] = {
            "tasks": list(task_names),
            "examples": [len(chosen) for _, chosen in self.examples],
            "steps": [],
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run keeps what was recorded up to its checkpoint."""
        if state.global_step == 0:
            self._add(state, 0)
        elif state.is_world_process_zero and self.path.is_file():
            earlier = read_json(self.path)
            self.record["steps"] = [entry for entry in earlier["steps"] if entry["step"] <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self._add(state, 1)
        elif state.global_step == state.max_steps // 2:
            self._add(state, 0.5)

    def _add(self, state: Any, share: float) -> None:
        """Measure and write. A run never ends because this cannot be done."""
        trainer = self.trainer
        if trainer is None or not state.is_world_process_zero or len(self.examples) < 2:
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # a gradient would need all processes
            return
        try:
            with unnoticed(trainer.model, trainer.args.device):
                measured = self._measure(trainer)
        except RuntimeError as error:  # out of memory, an operation without a backward pass in evaluation mode
            self.console.print(
                f"the tasks' gradients at step {state.global_step} were not recorded: {in_a_line(error)}", markup=False
            )
            return
        finally:
            self.clock.pause()
        self.record["steps"].append({"step": state.global_step, "share": share, **measured})
        write_json(self.path, self.record)

    def _measure(self, trainer: "MultiTaskTrainer") -> dict[str, Any]:
        parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        size, halves = sum(parameter.numel() for parameter in parameters), 2 * len(self.examples)
        # Above what may be held, every so manieth number stands for all: cosines need directions, not each number. Odd,
        # so that it does not always meet the same row of a matrix.
        stride = 1 if size * halves <= HELD else -(-size * halves // HELD) | 1
        gradients = torch.stack(
            [
                _gradient(trainer, parameters, rows, part, stride) / _scored(rows, chosen)
                for rows, chosen in self.examples
                for part in np.array_split(chosen, 2)
            ]
        )
        dots = (gradients @ gradients.T).double().view(halves // 2, 2, halves // 2, 2)
        return describe(dots) | ({"stride": stride} if stride > 1 else {})


def describe(dots: Tensor) -> dict[str, Any]:
    """Cosines between tasks and within them, from dot products.

    Args:
        dots: (K, 2, K, 2), of the gradients on both halves of every task's examples, which add up to the task's.

    Returns:
        cosine (K, K), norms (K,), within (K,); None in place of a cosine with a gradient of zero. noise, the standard
        error of a cosine between tasks (root mean square over pairs), from what the halves of either task's examples
        differ by; None without a pair.
    """
    whole = dots.sum((1, 3))
    norms = whole.diagonal().clamp(min=0).sqrt()
    halves = dots.diagonal(dim1=0, dim2=2)  # (2, 2, K)
    within = halves[0, 1] / (halves[0, 0] * halves[1, 1]).clamp(min=0).sqrt()
    return {
        "cosine": [_numbers(row) for row in whole / torch.outer(norms, norms)],
        "norms": _numbers(norms),
        "within": _numbers(within),
        "noise": _noise(dots, norms),
    }


def _noise(dots: Tensor, norms: Tensor) -> float | None:
    """See `describe`. A gradient is the sum of two halves, so its product with another varies as the difference of its
    halves does; what both tasks' halves make together is in both differences, and taken off once."""
    sign = torch.tensor([1.0, -1.0], dtype=dots.dtype)
    first = torch.einsum("aibj,i->ab", dots, sign).square()
    second = torch.einsum("aibj,j->ab", dots, sign).square()
    both = torch.einsum("aibj,i,j->ab", dots, sign, sign).square()
    squares = (first + second - both) / torch.outer(norms, norms).square()
    pairs = torch.ones_like(squares).tril(-1).bool() & squares.isfinite()
    if not pairs.any():
        return None
    return float(squares[pairs].mean().clamp(min=0).sqrt())


def _numbers(values: Tensor) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _spread(sources: Sequence[TokenRows], task: int, count: int) -> tuple[TokenRows, np.ndarray]:
    """So many rows of a task, spread evenly over those that it has, from the first source with enough of them."""
    of_task = [(rows, (rows.tasks == task).nonzero()[0]) for rows in sources]
    rows, there = max(of_task, key=lambda one: min(len(one[1]), count))
    return rows, there[np.linspace(0, len(there) - 1, min(count, len(there))).astype(int)]


def _scored(rows: TokenRows, examples: np.ndarray) -> int:
    """Completion tokens in these examples."""
    return int((rows.joined(examples.tolist())["labels"] != -100).sum())


def _gradient(
    trainer: "MultiTaskTrainer", parameters: Sequence[nn.Parameter], rows: TokenRows, part: np.ndarray, stride: int
) -> Tensor:
    """The gradient of the loss on some examples, summed over their completion tokens, as one vector on the CPU."""
    total: Tensor | None = None
    # Evaluation mode does not checkpoint: where training must, one example at a time keeps activations few.
    at_once = 1 if trainer.args.gradient_checkpointing else trainer.args.per_device_train_batch_size
    for start in range(0, len(part), at_once):
        batch = trainer.data_collator([rows.joined([int(i)]) for i in part[start : start + at_once]])
        inputs = trainer._prepare_inputs(batch)
        with trainer.compute_loss_context_manager():
            loss = -trainer.scored_outputs(trainer.model, inputs).log_probs.sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        vector = torch.cat(
            [
                (torch.zeros_like(parameter) if one is None else one).flatten()[::stride].float().cpu()
                for one, parameter in zip(found, parameters, strict=True)
            ]
        )
        total = vector if total is None else total.add_(vector)
    if total is None:  # a task with a single example has an empty second half
        total = torch.zeros(sum(-(-parameter.numel() // stride) for parameter in parameters))
    return total
