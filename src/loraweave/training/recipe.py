"""What one kind of run does in a way of its own: its rows, its first values, its trainer."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from loraweave.bases import Base
from loraweave.data.plan import RowPlan
from loraweave.data.prepare import RunData
from loraweave.runs.resolve import ResolvedRun
from loraweave.tasks import Task
from loraweave.training.trainer import MultiTaskTrainer


class Recipe:
    """The usual run; another kind overrides what it does otherwise.

    Attributes:
        trainer: the class of the trainer.
    """

    trainer: type[MultiTaskTrainer] = MultiTaskTrainer

    def prepare(
        self, run: ResolvedRun, tasks: Sequence[Task], base: Base, console: Console
    ) -> tuple[RunData, RowPlan, RowPlan | None]:
        """The rows to train on and those to validate on, before the base has an adapter."""
        return run.prepare_data(tasks, *base, console)

    def begin(self, model: Any) -> None:
        """Change the model as it is before the first step."""


USUAL = Recipe()
