"""What every task offers, whatever it is made from: examples to train on, examples held out, and a way to be scored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from random import Random
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.rows import BadRow

VALIDATION_SHARE = 0.05
VALIDATION_MOST = 200

Group = list[Example]
"""Examples that came from one row: held out together or not at all."""


class Task(ABC):
    """A task of a run.

    Attributes:
        name: Unique in a run.
        origin: The file or the library that the task came from, for people.
        chat_template: Prompts go through the tokenizer's chat template, in training and in evaluation alike.
        lm_eval: The lm-eval task object that scores the task (always without solved examples in the prompt), or None:
            then its score is the loss on `test_examples`.
        notes: What was guessed, left out or found about its data; a line each.
        skipped: Rows of its data that were left out since they cannot be used.
    """

    def __init__(
        self, name: str, origin: str, chat_template: bool, lm_eval: Any, validation_share: float | None, seed: int
    ) -> None:
        self.name = name
        self.origin = origin
        self.chat_template = chat_template
        self.lm_eval = lm_eval
        self._share = validation_share
        self._seed = seed
        self.notes: list[str] = []
        self.skipped: list[BadRow] = []
        self._split: tuple[list[Example], list[Example]] | None = None

    def training_examples(self) -> list[Example]:
        """Examples to learn from: never one that is evaluated or held out.

        Raises:
            UserError: the task can only be evaluated, or one of its rows is unfit (the message names file and line).
        """
        return self._splits()[0]

    def validation_examples(self) -> list[Example]:
        """Examples to watch training with: the task's own validation split where it has one apart from the split that
        is evaluated, else a seeded draw from the training rows (5 % of them, 200 at most, or the share asked for)."""
        return self._splits()[1]

    @property
    @abstractmethod
    def trainable(self) -> bool:
        """Whether there is anything to train on; some lm-eval tasks can only be evaluated."""

    @abstractmethod
    def test_examples(self) -> list[Example]:
        """The examples behind the task's score: what lm-eval evaluates, or what the held-out loss is taken over."""

    @property
    def is_scored(self) -> bool:
        """Whether there is anything to score it on: not where its data have too few rows to hold some out."""
        return self.lm_eval is not None or bool(self.test_examples())

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples are learned from, chosen by and scored; none of the first two where it is only scored.

        Raises:
            UserError: as `training_examples`.
        """
        training, validation = self._splits() if self.trainable else ([], [])
        return {"training": len(training), "validation": len(validation), "test": len(self.test_examples())}

    def question(self, values: Mapping[str, Any], place: str) -> str | list[Message] | None:
        """What a row without an answer asks, as text to go on from or as a chat to answer; None where `lm_eval` asks.

        Args:
            values: the row.
            place: of it, for messages.

        Raises:
            UserError: the row is unfit.
        """
        return None

    def tools(self, values: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
        """The functions that may be called to answer what `question` gives, as JSON schemas; None where there are none.

        Args:
            values: the row.
            place: of it, for messages.

        Raises:
            UserError: the row is unfit.
        """
        return None

    def document(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A row without an answer as `lm_eval` takes it.

        Args:
            values: the row.
            place: of it, for messages.

        Raises:
            UserError: the row is unfit.
        """
        return dict(values)

    @property
    def thinks(self) -> bool:
        """Whether an evaluation leaves it to the model to think before it answers, as it was taught."""
        return False

    def record(self) -> dict[str, Any]:
        """How the task's data were read and shared out, as plain values for a run's folder; empty for lm-eval's own."""
        return {}

    @property
    def about(self) -> str:
        """What its data were taken for, the sizes of its splits, and columns that are not used; empty for lm-eval's."""
        return ""

    @abstractmethod
    def _training_groups(self) -> list[Group]:
        """All rows that may be trained on."""

    @abstractmethod
    def _own_validation(self) -> list[Example] | None:
        """The task's own validation examples, or None: then some are drawn from the training rows."""

    def _splits(self) -> tuple[list[Example], list[Example]]:
        if self._split is None:
            groups = self._training_groups()
            validation = self._own_validation()
            held_out: set[int] = set()
            if validation is None:
                held_out = self._draw(len(groups))
                if self._share is not None and not held_out:
                    raise UserError(
                        f"task {self.name!r}: `validation: {self._share}` cannot be met: {self.origin} leaves no more "
                        "than one row to train on"
                    )
                validation = [example for i in sorted(held_out) for example in groups[i]]
            training = [example for i, group in enumerate(groups) if i not in held_out for example in group]
            self._split = training, validation
        return self._split

    def _draw(self, rows: int) -> set[int]:
        """Which rows to hold out: at least one and never all, so that one row alone is trained on."""
        wanted = (
            min(VALIDATION_MOST, int(VALIDATION_SHARE * rows)) if self._share is None else round(self._share * rows)
        )
        count = min(max(wanted, 1), rows - 1)
        return set(Random(f"{self._seed} {self.name}").sample(range(rows), count))
