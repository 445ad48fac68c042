"""One task's score, and the interval that its test examples leave for it."""

import math
from collections.abc import Mapping
from typing import Any

from scipy.special import betaincinv, ndtri, stdtrit
from typing_extensions import NotRequired, TypedDict

from loraweave.evaluation.outcomes import Outcomes, distinct_outcomes

PERCENT, NATS = "%", "nats"
CONFIDENCE = 0.95
STEEPEST = 10.0
"""Up to so many times a loss, its half-width goes through the exponential: beyond, ends would be no numbers to read."""


class TaskScore(TypedDict):
    """What a model scored on one task; plain JSON types, as it is written to a results file.

    `score` is in `unit`: "%" for a share of right answers (0 to 100), "nats" for a loss per token, "" for anything
    else. `stderr` is in the same unit, the standard error that comes from having only `n` examples; None where
    the metric has none. `metrics` holds every number of the task, as lm-eval names and scales it; None for what is no
    number, such as the mean of nothing. `requests` is a hash
    of every prompt and target: two scores with the same one answered the same questions. `truncated` counts the
    requests that were longer than the model reads and lost their beginning. `distinct` is there where some examples ask
    the same: how many different ones there are, which is what the standard error is of. `left_out` is there where the
    answers of some are longer than the model reads: how many are not in the score. `outcomes` has what each single
    example came to; None where the metric is no mean over examples.
    """

    score: float
    stderr: float | None
    n: int
    metric: str
    unit: str
    higher_is_better: bool
    filter: str
    metrics: dict[str, float | None]
    num_fewshot: int
    version: str | None
    requests: str
    truncated: int
    seconds: float
    outcomes: Outcomes | None
    distinct: NotRequired[int]
    left_out: NotRequired[int]


def about_cut(scores: Mapping[str, TaskScore]) -> list[str]:
    """Lines for each task in which requests, or answers by themselves, were longer than the model reads."""
    said = []
    for name, score in scores.items():
        if score["truncated"]:
            said.append(
                f"{name}: {score['truncated']:,} requests were longer than the model reads and lost their beginning."
            )
        if left := score.get("left_out", 0):
            count = "1 example whose answer is" if left == 1 else f"{left:,} examples whose answers are"
            said.append(f"{name}: {count} longer than the model reads, left out of the score.")
    return said


def interval(score: TaskScore) -> tuple[float, float] | None:
    """The 95 % interval that a score's test examples leave for it, in the score's own unit; None where its metric has
    none.

    See `ends`. Where each example is right or wrong it is the exact one: ten of ten are not certain. Examples that ask
    the same are one.
    """
    examples = distinct_outcomes(score["outcomes"])
    share = score["unit"] == PERCENT and examples is not None and examples.share
    if not share and score["stderr"] is None:
        return None
    count, worth = (score["n"], float(score["n"])) if examples is None else (len(examples.values), examples.worth)
    half = students_t(max(1.0, count - 1.0)) * (score["stderr"] or 0.0)
    exact = examples is not None and examples.binary
    return ends(score["score"], 0.0 if share and exact else half, score["unit"], worth if share else None)


def ends(mean: float, half: float, unit: str, worth: float | None) -> tuple[float, float]:
    """Where a score's 95 % interval ends, from the half-width that Student's t gives it.

    A share keeps within 0 and 100 %, as `share_interval` has it. Losses are skewed and their logarithms less so: these
    have Student's t. So has whatever else there is, as it stands.

    Args:
        mean: the score, or the mean of several.
        half: half-width; 0 where the spread says nothing of it.
        unit: of both.
        worth: of a share, the independent answers that it is worth at most; None for what is no share.
    """
    if worth is not None:
        return share_interval(mean, half, worth)
    if unit == NATS and mean > 0:
        most = mean * math.exp(min(half / mean, STEEPEST))
        return mean * math.exp(-half / mean), max(mean + half, most)
    return mean - half, mean + half


def share_interval(share: float, half: float, most: float) -> tuple[float, float]:
    """The interval of a percentage after Clopper and Pearson (1934), for as many independent answers as it is worth.

    How many these are follows from the interval that Student's t would give it (Korn and Graubard, 1998).

    Args:
        share: in percent.
        half: half-width of the interval by Student's t; 0 where that says nothing.
        most: answers that it is worth at most, and exactly where all are right or all are wrong.

    Returns:
        Its ends in percent, never the same, within 0 and 100.
    """
    p, tail = share / 100, (1 - CONFIDENCE) / 2
    worth = most
    if half > 0 and 0 < p < 1:
        worth = min(most, max(1.0, p * (1 - p) * (100 * students_t(math.inf) / half) ** 2))
    right, wrong = p * worth, (1 - p) * worth
    low = float(betaincinv(right, wrong + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - tail)) if wrong > 0 else 1.0
    return 100 * low, 100 * high


def quantile(degrees: float, share: Any) -> Any:
    """Below which `share` of Student's t lies; of the normal distribution for infinite `degrees`."""
    return ndtri(share) if math.isinf(degrees) else stdtrit(degrees, share)


def students_t(degrees: float) -> float:
    """How many standard errors the 95 % interval reaches to either side."""
    return float(quantile(degrees, (1 + CONFIDENCE) / 2))
