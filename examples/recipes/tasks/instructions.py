"""For task files whose data set is one split of instructions and answers: some rows are held out and scored.

A task file names the two functions after `!function`, and what `splits` needs under `dataset_kwargs`.
"""

from typing import Any

import datasets


def splits(path: str, answer: str, held_out: int, **_: Any) -> dict[str, datasets.Dataset]:
    """The split `train` of a data set on the hub without rows that have no answer, and `test`, drawn from it.

    Args:
        path: of the data set on the hub.
        answer: the column that is learned.
        held_out: rows of `test`.
    """
    rows = datasets.load_dataset(path, split="train").filter(lambda row: bool(row[answer].strip()))
    return dict(rows.train_test_split(test_size=held_out, seed=0))


def alpaca_bits(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """What the answer costs, for lm-eval's bits per byte: its log-likelihood and its bytes."""
    return _bits(results, doc["output"])


def dolly_bits(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """As `alpaca_bits`."""
    return _bits(results, doc["response"])


def _bits(results: list[tuple[float, bool]], answer: str) -> dict[str, tuple[float, int]]:
    return {"bits_per_byte": (results[0][0], len(answer.encode()))}
