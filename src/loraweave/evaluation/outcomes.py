"""What a model made of each single test example: what paired comparisons of two models are made from."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from typing_extensions import TypedDict

RIGHT_OR_WRONG, NUMBERS = "right or wrong", "numbers"


class Outcomes(TypedDict):
    """The outcomes of a task's test examples, in the order in which they were asked; compact, for a results file.

    `values` has a "1" or "0" for each example where `kind` is "right or wrong", else numbers apart by spaces, in the
    score's unit. `weights` are what each counts for in the score (an answer's tokens in a loss), empty for all alike.
    """

    kind: Literal["right or wrong", "numbers"]
    values: str
    weights: str


class Examples(NamedTuple):
    """Outcomes as arrays.

    Attributes:
        values: [n], in the score's unit; their mean with `weights` is the score.
        weights: [n], all 1 where every example counts alike.
        binary: whether each example is right (100) or wrong (0).
    """

    values: np.ndarray
    weights: np.ndarray
    binary: bool

    @property
    def share(self) -> bool:
        """Whether their mean is a share of what can be had: each example comes to 0 at least and to 100 at most."""
        return bool(((self.values >= 0) & (self.values <= 100)).all())


def shares(each: Sequence[Any], score: float, scale: float) -> Outcomes | None:
    """The outcomes behind a score that is the plain mean of its examples' values, times `scale`.

    Returns:
        None where it is something else, such as a corpus BLEU or a Matthews correlation, which no single example has.
    """
    if not each or not all(isinstance(value, (bool, int, float, np.number)) for value in each):
        return None
    values = [float(value) for value in each]
    if not math.isclose(scale * sum(values) / len(values), score, rel_tol=1e-6, abs_tol=1e-9):
        return None
    if scale == 100.0 and set(values) <= {0.0, 1.0}:
        return Outcomes(kind="right or wrong", values="".join(str(int(value)) for value in values), weights="")
    return Outcomes(kind="numbers", values=_written(scale * value for value in values), weights="")


def weighted(values: Sequence[float], weights: Sequence[float]) -> Outcomes:
    """The outcomes behind a mean of `values` with `weights`."""
    return Outcomes(kind="numbers", values=_written(values), weights=_written(weights))


def read_outcomes(outcomes: Outcomes | None) -> Examples | None:
    """The outcomes of a results file as arrays; None where none were kept."""
    if outcomes is None:
        return None
    if outcomes["kind"] == RIGHT_OR_WRONG:
        values = 100.0 * (np.frombuffer(outcomes["values"].encode(), dtype=np.uint8) == ord("1"))
    else:
        values = np.array(outcomes["values"].split(), dtype=float)
    weights = np.array(outcomes["weights"].split(), dtype=float) if outcomes["weights"] else np.ones(len(values))
    return Examples(values, weights, outcomes["kind"] == RIGHT_OR_WRONG)


def _written(values: Any) -> str:
    return " ".join(f"{value:.7g}" for value in values)
