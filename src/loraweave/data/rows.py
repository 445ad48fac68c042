"""All examples of a run as token rows, held in a few flat arrays: cheap to index, concatenate and share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

PackedRow = dict[str, np.ndarray]


class TokenRows:
    """Examples as token ids, labels and the task that each belongs to.

    Args:
        rows: one mapping per example with `input_ids` and `labels`, lists of one length; labels are −100 off the
            completion.
        tasks: one task id per example.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], tasks: Sequence[int]) -> None:
        rows = list(rows)
        self.tasks = np.asarray(tasks, dtype=np.int64)
        self.lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._ids = self._flat(row["input_ids"] for row in rows)
        self._labels = self._flat(row["labels"] for row in rows)

    def __len__(self) -> int:
        return len(self.tasks)

    def joined(self, examples: Sequence[int] | np.ndarray) -> PackedRow:
        """Several examples as one row: input_ids, labels, tasks (tokens,) each, and seq_lengths (examples,).

        The first label of every example is −100: what precedes it in the row is another example. No examples make a
        blank row, without a token.
        """
        if not len(examples):
            return {key: np.empty(0, dtype=np.int64) for key in ("input_ids", "labels", "tasks", "seq_lengths")}
        slices = [slice(self._starts[i], self._starts[i + 1]) for i in examples]
        lengths = self.lengths[list(examples)]
        labels = np.concatenate([self._labels[s] for s in slices])
        labels[np.cumsum(lengths) - lengths] = -100
        return {
            "input_ids": np.concatenate([self._ids[s] for s in slices]),
            "labels": labels,
            "tasks": np.repeat(self.tasks[list(examples)], lengths),
            "seq_lengths": lengths,
        }

    def _flat(self, lists: Iterable[Any]) -> np.ndarray:
        flat = np.empty(int(self._starts[-1]), dtype=np.int64)
        for start, values in zip(self._starts, lists, strict=False):
            flat[start : start + len(values)] = values
        return flat
