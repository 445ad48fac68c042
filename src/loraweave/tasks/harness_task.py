"""A task that lm-eval knows: its documents become the examples, and lm-eval scores it."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from loraweave.errors import UserError, check_none, problems_of, shown
from loraweave.tasks.examples import Example
from loraweave.tasks.prompts import divided_answer, example_from
from loraweave.tasks.task import Group, Task

LOOKED_AT = 100
"""Documents that tell how lm-eval takes their answers."""


class HarnessTask(Task):
    """Wraps one lm-eval task object. The documents it evaluates are its test examples and are never trained on."""

    def __init__(
        self, name: str, origin: str, chat_template: bool, lm_eval: Any, validation_share: float | None, seed: int
    ) -> None:
        super().__init__(name, origin, chat_template, lm_eval, validation_share, seed)
        self._test: list[Example] | None = None

    @property
    def trainable(self) -> bool:
        return bool(self.lm_eval.has_training_docs())

    def test_examples(self) -> list[Example]:
        if self._test is None:
            self._test = self._examples(self.lm_eval.eval_docs, self._evaluated_split)
        return self._test

    def _training_groups(self) -> list[Group]:
        task = self.lm_eval
        if not self.trainable:
            raise UserError(f"the task {self.name!r} ({self.origin}) has no training split: it can only be evaluated")
        if task.config.training_split == self._evaluated_split:
            raise UserError(
                f"the task {self.name!r} ({self.origin}) is evaluated on its training split "
                f"{self._evaluated_split!r}: give it a test_split of its own"
            )
        docs = task.training_docs()
        examples = self._examples(docs, task.config.training_split)
        if (said := divided_answer(task, islice(docs, LOOKED_AT))) is not None:
            self.notes.append(
                f"the answer {shown(said)} is text, and lm-eval takes it for several right answers, of which the first "
                "is learned: where it is one answer, write the bare name of its field as doc_to_target"
            )
        return [[example] for example in examples]

    def _own_validation(self) -> list[Example] | None:
        config = self.lm_eval.config
        apart = config.validation_split not in (None, config.training_split, self._evaluated_split)
        if self._share is not None or not apart:
            return None
        return self._examples(self.lm_eval.validation_docs(), config.validation_split)

    @property
    def _evaluated_split(self) -> str:
        return str(self.lm_eval.config.test_split or self.lm_eval.config.validation_split)

    def _examples(self, docs: Iterable[Any], split: str) -> list[Example]:
        place = getattr(self.lm_eval, "place", None)
        examples, problems = [], list[str]()
        for index, doc in enumerate(docs):
            where = place(split, index) if place else f"task {self.name!r}, document {index + 1} of {split!r}"
            try:
                examples.append(example_from(self.lm_eval, doc, self.chat_template, where))
            except UserError as error:
                problems += problems_of(error)
        check_none(problems)
        if not examples:
            raise UserError(f"the split {split!r} of the task {self.name!r} ({self.origin}) is empty")
        return examples
