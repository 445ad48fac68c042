"""From the tasks of a run to the rows it is trained and validated on, and what the mixture came to."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.data.encode import TooLongError
from loraweave.data.mixture import Mixture, MixtureConfig, Realised
from loraweave.data.notices import Cut, check_cuts, notices
from loraweave.data.packing import keeps_examples_apart
from loraweave.data.plan import RowPlan, validation_plan
from loraweave.data.rows import TaskTokens, TokenRows
from loraweave.data.schedule import Schedule
from loraweave.data.store import TokenStore
from loraweave.errors import UserError
from loraweave.heartbeat import Heartbeat
from loraweave.tasks import Task
from loraweave.tasks.examples import Example

READ_AT_MOST = 2048
"""Tokens of a model that does not say how many it can read, as lm-eval has it."""


@dataclass
class RunData:
    """The examples of a run as token rows.

    Attributes:
        training, validation: the rows; validation is None where no task has any.
        mixture: how often each task is drawn.
        cut, dropped: per task, the examples whose prompt was shortened and those whose answer did not fit at all.
        held_out: per task, the examples that are validated on and those that are scored, where that is known.
    """

    training: TokenRows
    validation: TokenRows | None
    mixture: Mixture
    cut: dict[str, int]
    dropped: dict[str, int]
    held_out: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first = np.concatenate([[0], np.cumsum([len(lengths) for lengths in self.mixture.lengths])])

    def epoch(self, number: int) -> np.ndarray:
        """(draws,) the rows of `training` that an epoch draws, in the order of the mixture."""
        tasks, rows = self.mixture.epoch(number).T
        return self._first[tasks] + rows

    def cuts(self) -> list[Cut]:
        """What the length limit did to each task."""
        return [
            Cut(name, len(part) + self.dropped.get(name, 0), self.cut.get(name, 0), self.dropped.get(name, 0))
            for name, part in zip(self.mixture.names, self.training.parts, strict=True)
        ]

    def realised(self, seen: np.ndarray) -> list[Realised]:
        """What each task got.

        Args:
            seen: (rows of `training`,) how often the run trains on each.
        """
        drawn = np.zeros(len(self.mixture.names), dtype=np.int64)
        tokens = np.zeros_like(drawn)
        np.add.at(drawn, self.training.tasks, seen)
        np.add.at(tokens, self.training.tasks, seen * self.training.lengths)
        cuts = self.cuts()
        rows = self.mixture.realised(drawn, tokens, [cut.cut for cut in cuts], [cut.dropped for cut in cuts])
        for row in rows:
            if row["task"] in self.held_out:
                row["validation"], row["test"] = self.held_out[row["task"]]
        return rows


def longest_example(max_length: int, model: PreTrainedModel) -> int:
    """Tokens that an example may have: at most `max_length`, and no more than the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(max_length, positions or max_length)


def load_data(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    mixture: MixtureConfig,
    seed: int,
    console: Console,
) -> RunData:
    """Encode all examples of all tasks, or find them encoded, and set up the mixture.

    Raises:
        UserError: a task without training examples, or one whose answers are all too long; names the task. An example
            that is to be scored and that the chat template refuses.
    """
    store = TokenStore(tokenizer)
    with Heartbeat(partial(console.print, markup=False, highlight=False, soft_wrap=True)) as heart:
        training = [_encoded(task.name, task.training_examples(), store, max_length, heart) for task in tasks]
        validation = [_to_choose_by(task, store, max_length, heart, console) for task in tasks]
        for task in tasks:
            _check_scored(task, store, max_length, heart)
    for task, encoded in zip(tasks, training, strict=True):
        if not len(encoded):
            raise UserError(f"{task.origin}: the task {task.name!r} has no training examples")
    names = [task.name for task in tasks]
    return RunData(
        training=TokenRows(training),
        validation=TokenRows(validation) if any(map(len, validation)) else None,
        mixture=Mixture.build({n: e.lengths for n, e in zip(names, training, strict=True)}, mixture, seed=seed),
        cut={n: e.cut for n, e in zip(names, training, strict=True)},
        dropped={n: e.dropped for n, e in zip(names, training, strict=True)},
        held_out={task.name: (task.sizes["validation"], task.sizes["test"]) for task in tasks},
    )


def _encoded(
    name: str, examples: Sequence[Example], store: TokenStore, max_length: int, heart: Heartbeat
) -> TaskTokens:
    heart.tell(f"{name}: waiting for its encoded examples")
    try:
        return store.encoded(
            examples, max_length, lambda done: heart.tell(f"{name}: {done} of {len(examples)} examples encoded")
        )
    except UserError as error:
        raise UserError(f"task {name!r}: {error}") from error


def _to_choose_by(task: Task, store: TokenStore, max_length: int, heart: Heartbeat, console: Console) -> TaskTokens:
    """The validation examples of a task, of which there may be few; none where all of their answers are too long."""
    examples = task.validation_examples()
    try:
        return _encoded(task.name, examples, store, max_length, heart)
    except UserError as error:
        if not isinstance(error.__cause__, TooLongError):
            raise
    count = "its one validation example" if len(examples) == 1 else f"all {len(examples):,} validation examples"
    console.print(
        f"{task.name}: {count} left out, for the answer is longer than {max_length:,} tokens",
        markup=False,
        soft_wrap=True,
    )
    return TaskTokens.of([], dropped=len(examples))


def _check_scored(task: Task, store: TokenStore, max_length: int, heart: Heartbeat) -> None:
    """Raise UserError where the chat template refuses what is to be scored: after training would be late."""
    chats = [example for example in task.test_examples() if isinstance(example.completion, list)]
    with suppress(TooLongError):
        store.encoded(
            chats,
            max_length,
            lambda done: heart.tell(f"{task.name}: {done} of {len(chats)} examples to score rendered"),
        )


def prepare(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    mixture: MixtureConfig,
    schedule: Schedule,
    *,
    max_length: int,
    packing: bool,
    validate: bool,
    cut_prompts: bool,
    seed: int,
    console: Console,
) -> tuple[RunData, RowPlan, RowPlan | None]:
    """The rows of a whole run in their order, and those to validate on.

    Args:
        tasks: in the order of their ids.
        tokenizer, model: of the base; the model may be on the meta device.
        mixture: how often each task is drawn.
        schedule: how long the run is.
        max_length: tokens per row.
        packing: put several examples into a row, where the model keeps them apart.
        validate: whether rows to validate on are wanted.
        cut_prompts: train also where a task loses most of its prompts' beginnings to `max_length`.
        seed: of the order.
        console: where it is said what was cut, left out or is out of reach.

    Raises:
        UserError: a task without training examples, one whose answers are all too long, or most of whose prompts are
            cut, or nothing to validate on.
    """
    longest = longest_example(max_length, model)
    data = load_data(tasks, tokenizer, longest, mixture, seed, console)
    cuts = data.cuts()
    for line in notices(tasks, tokenizer, cuts, longest, max_length, longest_example(READ_AT_MOST, model)):
        console.print(line, markup=False, soft_wrap=True)
    if not cut_prompts:
        check_cuts(cuts, longest)
    if packing and not keeps_examples_apart(model):
        console.print(f"{model.config.model_type} cannot keep packed examples apart, so rows hold one example each")
        packing = False
    plan = RowPlan(
        data.training,
        data.epoch,
        max_length=max_length,
        packing=packing,
        seed=seed,
        schedule=schedule,
        period=data.mixture.period,
    )
    if not validate:
        return data, plan, None
    if data.validation is None:
        raise UserError(
            f"no task has validation examples that fit into {longest:,} tokens; set train.eval_strategy to no"
        )
    return data, plan, validation_plan(data.validation, max_length, packing)
