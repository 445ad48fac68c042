"""Other people's trainers: how the task of each row gets from the data to the adapted layers.

`with_tasks` makes a trainer's class one that reads a column of the data. It knows three ways in which trainers handle
rows: one row of a batch per example (transformers' Trainer, TRL's SFTTrainer), a chosen and a rejected row per example
(DPOTrainer), and rows that are generated and then scored in chunks (GRPOTrainer).
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from loraweave.errors import UserError, nearest
from loraweave.tuner.context import task
from loraweave.tuner.layer import WeaveLinear
from loraweave.tuner.task_ids import checked_ids

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object  # importing the real one takes longer than all of this package

TrainerClass = TypeVar("TrainerClass", bound=type)


def with_tasks(trainer_class: TrainerClass, column: str = "task") -> TrainerClass:
    """A trainer's class, for data whose rows say their task: `loraweave.with_tasks(DPOTrainer)(model=model, …)`.

    Everything else about the trainer stays as it is. With an adapter that knows no tasks the column is left out.

    Args:
        trainer_class: transformers' Trainer, TRL's SFTTrainer, DPOTrainer or GRPOTrainer, or a class derived from one.
        column: of the training and evaluation data, with the name or id of each row's task. For rows that are packed
            already it may hold a list with one for each token.

    Raises:
        UserError: a trainer whose way of handling rows is not known. Later, from the trainer: data without the column,
            an unknown task, or settings under which a row would lose its task.
    """
    bases = trainer_class.__mro__ if isinstance(trainer_class, type) else ()
    known = next((c for c in bases if c.__name__ in _KINDS or c.__module__.startswith("trl.")), None)
    if known is None:
        raise UserError(f"with_tasks takes a trainer's class, as in with_tasks(SFTTrainer)(…), not {trainer_class!r}")
    if known.__name__ not in _KINDS:
        raise UserError(
            f"with_tasks does not know how {known.__name__} handles rows; it knows {', '.join(_KINDS)}. Set the tasks "
            "yourself around each forward pass, with loraweave.task(model, …)"
        )
    name = f"{trainer_class.__name__}WithTasks"
    return type(name, (_KINDS[known.__name__], trainer_class), {"task_column": column})  # type: ignore[return-value]


class _WithTasks(Trainer):
    """Goes before a trainer in the order of its bases: keeps the column, and sets the tasks around every loss."""

    task_column: str
    data_collator: Any
    rows_per_example = 1
    tasks_of_rows: Tensor | None = None  # of the loss or generation under way

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(super().__init__).bind_partial(*args, **kwargs).arguments
        parts = []
        for name in ("train_dataset", "eval_dataset"):
            data = given.get(name, given.get("kwargs", {}).get(name))
            parts += [(name, part) for part in (data.values() if isinstance(data, Mapping) else [data])]
        for name, part in parts:
            self._check_column(name, getattr(part, "column_names", None))
        super().__init__(*args, **kwargs)
        for name, part in parts:
            self._check_numbers(name, getattr(part, "features", None) or {})
        for setting, instead in self.refused_settings():
            raise UserError(f"{type(self).__name__}: with {setting} rows would lose their tasks; {instead}")

    def refused_settings(self) -> Iterator[tuple[str, str]]:
        """What is set and cannot work, and what to do instead."""
        if getattr(self.args, "packing", False) or getattr(self.args, "eval_packing", False):
            yield (
                "packing",
                f"give each token its task in the column {self.task_column!r}, pack with trl.pack_dataset beforehand, "
                "and set padding_free=True, max_length=None instead",
            )

    def _check_column(self, what: str, columns: Sequence[str] | None) -> None:
        if columns is not None and self.task_column not in columns:
            raise UserError(
                f"{what} has no column {self.task_column!r} with the task of each row, only {', '.join(columns)}"
                f"{nearest(self.task_column, columns)}; with_tasks takes another name as column=…"
            )

    def _check_numbers(self, what: str, features: Mapping[str, Any]) -> None:
        """Refuse a column of numbers that stand for the same names in another order than the adapter's."""
        feature, names = features.get(self.task_column), list(_task_names(self.model) or ())
        numbered = list(getattr(getattr(feature, "feature", feature), "names", None) or ())
        if set(numbered) & set(names) and numbered != names[: len(numbered)]:
            ids = {name: number for number, name in enumerate(names)}
            raise UserError(
                f"{what} numbers the tasks in its column {self.task_column!r} as {', '.join(numbered)}, the adapter as "
                f"{', '.join(names)}: give their names, or use align_labels_with_mapping({ids}, {self.task_column!r})"
            )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.task_column not in self._signature_columns:
            self._signature_columns.append(self.task_column)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with self._collating_tasks():
            return super()._get_dataloader(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = dict(inputs)
        with self._told(inputs.pop("tasks", None)):
            return super().compute_loss(model, inputs, *args, **kwargs)

    @contextmanager
    def _collating_tasks(self) -> Iterator[None]:
        # For a moment only: trainers look at what kind of collator they have.
        plain, names = self.data_collator, _task_names(self.model)
        self.data_collator = _Collator(plain, self.task_column, names, self.rows_per_example)
        try:
            yield
        finally:
            self.data_collator = plain

    @contextmanager
    def _told(self, tasks: Tensor | None) -> Iterator[None]:
        if tasks is None:
            yield
            return
        outer, self.tasks_of_rows = self.tasks_of_rows, tasks
        try:
            with task(self.model, tasks):
                yield
        finally:
            self.tasks_of_rows = outer


class _Preferences(_WithTasks):
    """A batch holds the chosen rows of all examples, then the rejected ones."""

    rows_per_example = 2

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        with self._collating_tasks():
            return super()._precompute_ref_logps(*args, **kwargs)

    def compute_ref_log_probs(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        inputs = dict(inputs)
        with self._told(inputs.pop("tasks", None)):
            return super().compute_ref_log_probs(model, inputs)


class _Generating(_WithTasks):
    """A batch is a list of examples; the rows made of them keep their order until their tasks go with them."""

    def refused_settings(self) -> Iterator[tuple[str, str]]:
        instead = "let transformers' generate make one completion for each row"
        for setting in (
            "use_vllm",
            "use_transformers_continuous_batching",
            "rollout_func",
            "tools",
            "environment_factories",
        ):
            if getattr(self, setting, None) or getattr(self.args, setting, None):
                yield setting, instead

    @contextmanager
    def _collating_tasks(self) -> Iterator[None]:
        yield  # examples stay as they are, for the functions that reward completions too

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        names = _task_names(self.model)
        if names is None:
            return super()._generate_and_score_completions(inputs)
        tasks = _ids([_task_of(example, self.task_column) for example in inputs], names).to(self.accelerator.device)
        with self._told(tasks):
            output = super()._generate_and_score_completions(inputs)
        return {**output, "tasks": tasks}

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.tasks_of_rows is None:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        chunks = _Chunks(model, self.model, self.tasks_of_rows)
        result = super()._get_per_token_logps_and_entropies(chunks, *args, **kwargs)
        chunks.check()
        return result


_KINDS: dict[str, type] = {
    "Trainer": _WithTasks,
    "SFTTrainer": _WithTasks,
    "DPOTrainer": _Preferences,
    "GRPOTrainer": _Generating,
}


@dataclass
class _Chunks:
    """Stands for a model that is called on one chunk of rows after the other, and gives each call its rows' tasks."""

    model: Callable[..., Any]
    adapted: nn.Module
    tasks: Tensor
    done: int = 0

    def __call__(self, **inputs: Any) -> Any:
        start, self.done = self.done, self.done + len(inputs["input_ids"])
        with task(self.adapted, self.tasks[start : self.done]):
            return self.model(**inputs)

    def check(self) -> None:
        if self.done != len(self.tasks):
            raise UserError(f"with_tasks: there are tasks for {len(self.tasks)} rows, but {self.done} were scored")


@dataclass
class _Collator:
    """Takes the column out of the examples and adds `tasks`, ids for the rows or tokens of the batch.

    Args:
        collator: makes the batch of the rest.
        column: with names or ids, one or a list per example.
        names: the tasks in the order of their ids; None where the adapter has none.
        rows_per_example: 2 where all examples stand twice in the batch, one time after the other.
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    column: str
    names: Sequence[str] | None
    rows_per_example: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values = [_task_of(example, self.column) for example in examples]
        rest = [{key: value for key, value in example.items() if key != self.column} for example in examples]
        batch = self.collator(rest)
        if self.names is None:
            return batch
        rows = batch.get("input_ids")
        if rows is None:  # images or features
            rows = next(value for value in batch.values() if isinstance(value, Tensor) and value.ndim)
        if len(rows) == self.rows_per_example * len(examples) and not any(map(_is_list, values)):
            batch["tasks"] = _ids(values, self.names).repeat(self.rows_per_example)
            return batch
        cannot_tell = UserError(
            f"with_tasks cannot tell which row or token of the batch is which: {type(self.collator).__name__} must "
            "keep the rows in their order and pad them at the end, or put all of them into one row"
        )
        if self.rows_per_example > 1 or "input_ids" not in rest[0]:
            raise cannot_tell
        tokens = [torch.as_tensor(example["input_ids"]) for example in rest]
        tasks = [_ids(v if _is_list(v) else [v] * len(t), self.names) for v, t in zip(values, tokens, strict=True)]
        if len(rows) == 1:
            tokens, tasks = [torch.cat(tokens)], [torch.cat(tasks)]
        batch["tasks"] = torch.zeros_like(rows)
        if len(rows) != len(tokens):
            raise cannot_tell
        for row, expected, ids, target in zip(rows, tokens, tasks, batch["tasks"], strict=True):
            if len(ids) != len(expected):
                raise UserError(f"column {self.column!r} has {len(ids)} tasks for a row of {len(expected)} tokens")
            if not torch.equal(row[: len(expected)], expected):
                raise cannot_tell
            target[: len(ids)] = ids
        return batch


def _task_names(model: nn.Module) -> Sequence[str] | None:
    """The tasks of the model's active adapter; None where it has none."""
    for module in model.modules():
        if isinstance(module, WeaveLinear):
            for adapter in module.active_adapters:
                if adapter in module.knobs and (names := module.knobs[adapter].config.task_names):
                    return names
    return None


def _task_of(example: Mapping[str, Any], column: str) -> Any:
    if column not in example:
        raise UserError(f"a row has no {column!r}, which should say its task, only {', '.join(example)}")
    return example[column]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, Tensor)) and not (isinstance(value, Tensor) and value.ndim == 0)


def _ids(values: Any, names: Sequence[str]) -> Tensor:
    return checked_ids(values, names).to(torch.long)
