"""What an export costs: the adapter and what was made of it, side by side on rows that training has not seen."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice

import torch
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.data.encode import EncodedRow, TooLongError, encode_all
from loraweave.errors import UserError
from loraweave.evaluation import TaskScore, evaluate
from loraweave.evaluation.scoring import without_score
from loraweave.export.outputs import Outputs, outputs
from loraweave.export.source import Source
from loraweave.export.variants import Variant
from loraweave.tasks import Task
from loraweave.tasks.examples import Example
from loraweave.tuner import task as told

CHECKED = 8
"""Rows of each task on which an exact export is compared."""

AVERAGED = 256
"""Training rows of a task over which heads' weights are averaged."""

RANDOM = ""
"""The name under which rows of random tokens go, where a run's tasks are not there."""


@dataclass(frozen=True)
class Said:
    """What one model says to held-out rows.

    Attributes:
        outputs: by task. scores: by task, as `evaluation.evaluate` has them; none where nobody asked.
    """

    outputs: dict[str, Outputs]
    scores: dict[str, TaskScore] = field(default_factory=dict)


class Bench:
    """Rows to compare on, and the way a model is run over them.

    Args:
        source: what is exported.
        tokenizer: its base's.
        limit: held-out examples of each task for what is not exact.
        console: where it is said that the tasks are not there.
    """

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase, limit: int, console: Console) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.console = console
        self.limit = limit
        self.length = int(source.config.train.get("max_length") or 1024) if source.config else 1024
        try:
            self.tasks: Mapping[str, Task] = source.load_tasks()
            self.why = ""
        except UserError as error:
            self.tasks, self.why = {}, str(error)
            console.print(f"compared on random tokens: {error}", style="dim", markup=False, soft_wrap=True)

    def training_rows(self, task: str) -> list[EncodedRow]:
        """Rows of a task's training data, spread evenly over it.

        Raises:
            UserError: the task's data is not there.
        """
        examples = self._task(task).training_examples()
        count = min(len(examples), AVERAGED)  # a file may be sorted, by label for one
        spread = [examples[place * len(examples) // count] for place in range(count)]
        return encode_all(spread, self.tokenizer, self.length).rows

    def check_measurable(self) -> None:
        """Raise UserError unless the cost of an export that is not exact can be measured."""
        if not self.tasks:
            raise UserError(f"what this export costs must be measured, and cannot be: {self.why}")

    def measured(self, variant: Variant) -> tuple[list[str], list[str]]:
        """The tasks on which the cost of a variant is measured; and those that are left out, with nothing to score.

        Raises:
            UserError: there is none to measure on.
        """
        names = self._names(variant)
        unscored = without_score([self._task(name) for name in names])
        return [name for name in names if name not in unscored], unscored

    def _names(self, variant: Variant) -> list[str]:
        return [variant.task] if variant.task else list(self.tasks)

    def said(self, model: PreTrainedModel | PeftModel, variant: Variant, adapted: bool, exact: bool, room: int) -> Said:
        """Run a model over held-out rows of a variant's task, or of all; over random ones where there are no tasks.

        Args:
            model: the adapter on its base, or an export.
            variant: of the export.
            adapted: it is the adapter, which may need to be told the task.
            exact: a few rows will do, learned ones too where no others are there, and no scores are needed.
            room: logits to be kept, in numbers.

        Raises:
            UserError: it is not exact, and there is nothing to measure on.
        """
        rows = {RANDOM: random_rows(model)}
        if self.tasks:
            names = self._names(variant) if exact else self.measured(variant)[0]
            rows = {name: self._rows(name, exact) for name in names}
        found: dict[str, Outputs] = {}
        scores: dict[str, TaskScore] = {}
        for name, each in rows.items():
            with told_task(model, self.source, variant.task or name) if adapted else nullcontext():
                found[name] = outputs(model, each, room // len(rows), exact)
            if not exact:
                scores |= evaluate(model, self.tokenizer, [self._task(name)], limit=self.limit)
        return Said(found, scores)

    def _rows(self, name: str, exact: bool) -> list[EncodedRow]:
        """Rows of a task: those that are scored, or else, where another task scores it, those that choose."""
        task = self._task(name)
        examples = task.test_examples() or task.validation_examples() or (task.training_examples() if exact else [])
        if not examples:
            raise UserError(
                f"{task.origin}: no row is held out to measure what this export costs: name a file as 'test'"
            )
        if exact and (fitting := [*islice(self._fitting(examples), CHECKED)]):
            return fitting
        return encode_all(examples[: self.limit], self.tokenizer, self.length).rows

    def _fitting(self, examples: Iterable[Example]) -> Iterator[EncodedRow]:
        """The rows of each example whose answer is not too long: training left the others out."""
        for example in examples:
            with suppress(TooLongError):
                yield from encode_all([example], self.tokenizer, self.length).rows

    def _task(self, name: str) -> Task:
        self.check_measurable()
        if name not in self.tasks:
            raise UserError(f"the run has no task {name!r} any more (it has {', '.join(self.tasks)})")
        return self.tasks[name]


def told_task(model: PreTrainedModel | PeftModel, source: Source, name: str | None) -> AbstractContextManager[None]:
    """The context in which an adapter on its base knows its task, if it needs to."""
    return told(model, name) if source.adapter.tasks and name else nullcontext()


def random_rows(model: PreTrainedModel | PeftModel) -> list[EncodedRow]:
    """Two rows of 24 random tokens, the same at every call."""
    words = model.get_input_embeddings().weight.shape[0]  # an adapted one says its number no more
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(words, (2, 24), generator=generator).tolist()
    return [{"input_ids": ids, "labels": list(ids)} for ids in rows]
