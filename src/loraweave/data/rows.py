"""All examples of a run as token rows, held in a few flat arrays: cheap to index, share and map from the disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PackedRow = dict[str, np.ndarray]


@dataclass(frozen=True)
class TaskTokens:
    """The examples of one task, encoded.

    Attributes:
        ids: (tokens,) int32, one example after another.
        trained: (tokens,) bool, whether a token carries loss.
        starts: (n + 1,) int64, where each example begins, and the end.
        kept: (n,) int64, the numbers of the examples that fitted among those that the task has.
        cut, dropped: how many lost the beginning of their prompt, and how many did not fit at all.
    """

    ids: np.ndarray
    trained: np.ndarray
    starts: np.ndarray
    kept: np.ndarray
    cut: int = 0
    dropped: int = 0

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        kept: Sequence[int] | None = None,
        cut: int = 0,
        dropped: int = 0,
    ) -> "TaskTokens":
        """From one mapping per example with `input_ids` and `labels`, lists of one length; labels are the ids where
        there is loss, and −100 elsewhere."""
        rows = list(rows)
        starts = np.cumsum([0, *(len(row["input_ids"]) for row in rows)], dtype=np.int64)
        ids, labels = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.int32)
        for start, end, row in zip(starts, starts[1:], rows, strict=False):
            ids[start:end], labels[start:end] = row["input_ids"], row["labels"]
        numbers = np.arange(len(rows)) if kept is None else np.asarray(kept, dtype=np.int64)
        return cls(ids, labels != -100, starts, numbers, cut, dropped)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each example: what a mixture by tokens counts."""
        return np.diff(self.starts)


class TokenRows:
    """The examples of all tasks, numbered through: those of the first part, then of the second, ….

    Args:
        parts: examples of one task each.
        tasks: the task id of each part; by default 0, 1, 2, ….

    Attributes:
        tasks: (examples,) task ids.
        lengths: (examples,) tokens.
    """

    def __init__(self, parts: Sequence[TaskTokens], tasks: Sequence[int] | None = None) -> None:
        self.parts = list(parts)
        sizes = list(map(len, self.parts))
        self._first = np.cumsum([0, *sizes])
        self._part = np.repeat(np.arange(len(sizes)), sizes)
        self.tasks = self._part if tasks is None else np.asarray(tasks)[self._part]
        self.lengths = np.concatenate([part.lengths for part in self.parts])

    def __len__(self) -> int:
        return len(self.tasks)

    def joined(self, examples: Sequence[int] | np.ndarray) -> PackedRow:
        """Several examples as one row: input_ids, labels, tasks (tokens,) each, and seq_lengths (examples,).

        The first label of every example is −100: what precedes it in the row is another example. No examples make a
        blank row, without a token.
        """
        if not len(examples):
            return {key: np.empty(0, dtype=np.int64) for key in ("input_ids", "labels", "tasks", "seq_lengths")}
        examples = np.asarray(examples)
        places = [self._place(int(example)) for example in examples]
        ids = np.concatenate([part.ids[where] for part, where in places]).astype(np.int64)
        lengths = self.lengths[examples]
        labels = np.where(np.concatenate([part.trained[where] for part, where in places]), ids, -100)
        labels[np.cumsum(lengths) - lengths] = -100
        return {
            "input_ids": ids,
            "labels": labels,
            "tasks": np.repeat(self.tasks[examples], lengths),
            "seq_lengths": lengths,
        }

    def _place(self, example: int) -> tuple[TaskTokens, slice]:
        index = self._part[example]
        part, number = self.parts[index], example - self._first[index]
        return part, slice(part.starts[number], part.starts[number + 1])
