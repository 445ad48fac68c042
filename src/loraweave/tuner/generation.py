"""`generate` with tasks: Transformers refuses arguments that no forward names, before any hook could take them out."""

from typing import Any

from torch import Tensor, nn

from loraweave.errors import UserError
from loraweave.tuner.context import attach
from loraweave.tuner.task_ids import Tasks


class GenerateWithTasks:
    """A base model's `generate` that takes `tasks`: one for all, or one per sequence."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, tasks: Tasks | None = None, **kwargs: Any) -> Any:
        """What the model's own `generate` returns.

        Raises:
            UserError: `tasks` (batch, tokens) in which a sequence changes its task.
        """
        context = attach(self.model)
        with context.use(context.given if tasks is None else one_per_sequence(tasks)):
            return type(self.model).generate(self.model, *args, **kwargs)


def one_per_sequence(tasks: Tasks) -> Tasks:
    """(batch, tokens) with one task in each row as (batch,); others as they are."""
    if not isinstance(tasks, Tensor) or tasks.ndim != 2:
        return tasks
    changing = (tasks != tasks[:, :1]).any(1).nonzero().flatten().tolist()
    if changing:
        raise UserError(
            f"generate needs one task per sequence, and tasks {tuple(tasks.shape)} change within "
            f"sequence {changing[0]}: pass a LongTensor (batch,)"
        )
    return tasks[:, 0]


def wrap_generate(model: nn.Module) -> None:
    """Let the base model's `generate`, if it has one, take `tasks`, however it is called."""
    if callable(getattr(type(model), "generate", None)) and "generate" not in model.__dict__:
        model.generate = GenerateWithTasks(model)


def unwrap_generate(model: nn.Module) -> None:
    """Undo `wrap_generate`."""
    if isinstance(model.__dict__.get("generate"), GenerateWithTasks):
        del model.generate
