"""What a model made of each single test example: what paired comparisons of two models are made from."""

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from typing_extensions import NotRequired, TypedDict

RIGHT_OR_WRONG, NUMBERS = "right or wrong", "numbers"


class Outcomes(TypedDict):
    """The outcomes of a task's test examples, in the order in which they were asked; compact, for a results file.

    `values` has a "1" or "0" for each example where `kind` is "right or wrong", else numbers apart by spaces, in the
    score's unit. `weights` are what each counts for in the score (an answer's tokens in a loss), empty for all alike.
    `asked`, where some examples ask the same, has for each the number of the first that asked what it asks.
    """

    kind: Literal["right or wrong", "numbers"]
    values: str
    weights: str
    asked: NotRequired[str]


class Examples(NamedTuple):
    """Outcomes as arrays.

    Attributes:
        values: [n], in the score's unit; their mean with `weights` is the score.
        weights: [n], all 1 where every example counts alike.
        binary: whether each example is right (100) or wrong (0).
        asked: [n], the same number for examples that ask the same.
    """

    values: np.ndarray
    weights: np.ndarray
    binary: bool
    asked: np.ndarray

    @property
    def worth(self) -> float:
        """How many examples of equal weight tell as much (Kish, 1965)."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    @property
    def share(self) -> bool:
        """Whether their mean is a share of what can be had: each example comes to 0 at least and to 100 at most."""
        return bool(((self.values >= 0) & (self.values <= 100)).all())


def shares(each: Sequence[Any], score: float, scale: float, asked: Sequence[Hashable] = ()) -> Outcomes | None:
    """The outcomes behind a score that is the plain mean of its examples' values, times `scale`; `asked` has what was
    asked in each, where that is known.

    Returns:
        None where it is something else, such as a corpus BLEU or a Matthews correlation, which no single example has.
    """
    if not each or not all(isinstance(value, (bool, int, float, np.number)) for value in each):
        return None
    values = [float(value) for value in each]
    if not math.isclose(scale * sum(values) / len(values), score, rel_tol=1e-6, abs_tol=1e-9):
        return None
    if scale == 100.0 and set(values) <= {0.0, 1.0}:
        letters = "".join(str(int(value)) for value in values)
        return _with_repeats(Outcomes(kind="right or wrong", values=letters, weights=""), asked)
    return _with_repeats(
        Outcomes(kind="numbers", values=_written(scale * value for value in values), weights=""), asked
    )


def weighted(values: Sequence[float], weights: Sequence[float], asked: Sequence[Hashable] = ()) -> Outcomes:
    """The outcomes behind a mean of `values` with `weights`; `asked` as for `shares`."""
    return _with_repeats(Outcomes(kind="numbers", values=_written(values), weights=_written(weights)), asked)


def read_outcomes(outcomes: Outcomes | None) -> Examples | None:
    """The outcomes of a results file as arrays, an entry for each test example; None where none were kept."""
    if outcomes is None:
        return None
    if outcomes["kind"] == RIGHT_OR_WRONG:
        values = 100.0 * (np.frombuffer(outcomes["values"].encode(), dtype=np.uint8) == ord("1"))
    else:
        values = np.array(outcomes["values"].split(), dtype=float)
    weights = np.array(outcomes["weights"].split(), dtype=float) if outcomes["weights"] else np.ones(len(values))
    asked = np.array(outcomes["asked"].split(), dtype=int) if outcomes.get("asked") else np.arange(len(values))
    return Examples(values, weights, outcomes["kind"] == RIGHT_OR_WRONG, asked)


def distinct_outcomes(outcomes: Outcomes | None) -> Examples | None:
    """The same with one entry for all examples that ask the same: their mean, with the weight of all of them.

    A question that is asked again is answered the same again, which tells nothing new about other questions.
    """
    each = read_outcomes(outcomes)
    if each is None:
        return None
    _, first, group = np.unique(each.asked, return_index=True, return_inverse=True)
    if len(first) == len(each.values):
        return each
    weights = np.bincount(group, each.weights)
    sums = np.bincount(group, each.weights * each.values)
    values = np.where(weights > 0, sums / np.where(weights > 0, weights, 1), each.values[first])
    return Examples(values, weights, each.binary and bool(np.isin(values, (0.0, 100.0)).all()), each.asked[first])


def _with_repeats(outcomes: Outcomes, asked: Sequence[Hashable]) -> Outcomes:
    first: dict[Hashable, int] = {}
    numbers = [first.setdefault(question, number) for number, question in enumerate(asked)]
    return outcomes if len(first) == len(numbers) else {**outcomes, "asked": " ".join(map(str, numbers))}


def _written(values: Any) -> str:
    return " ".join(f"{value:.7g}" for value in values)
