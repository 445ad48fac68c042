"""One task's score, and the mean over tasks whose scores may be averaged."""

from collections.abc import Mapping
from typing import TypedDict

from scipy.stats import binomtest, norm

from loraweave.evaluation.outcomes import Outcomes

PERCENT = "%"


class TaskScore(TypedDict):
    """What a model scored on one task; plain JSON types, as it is written to a results file.

    `score` is in `unit`: "%" for a share of right answers (0 to 100), "nats" for a loss per token, "" for anything
    else. `stderr` is in the same unit, the standard error that comes from having only `n` examples; None where
    the metric has none. `metrics` holds every number of the task, as lm-eval names and scales it. `requests` is a hash
    of every prompt and target: two scores with the same one answered the same questions. `truncated` counts the
    requests that were longer than the model reads and lost their beginning. `outcomes` has what each single example
    came to; None where the metric is no mean over examples.
    """

    score: float
    stderr: float | None
    n: int
    metric: str
    unit: str
    higher_is_better: bool
    filter: str
    metrics: dict[str, float]
    num_fewshot: int
    version: str | None
    requests: str
    truncated: int
    seconds: float
    outcomes: Outcomes | None


def macro_average(scores: Mapping[str, TaskScore]) -> float | None:
    """The mean over tasks that share a unit, or None.

    A percentage and a loss have no mean: with both present the losses are left out. Scores in no known unit are
    averaged only when all tasks have the same metric.
    """
    percentages = [score["score"] for score in scores.values() if score["unit"] == PERCENT]
    if percentages:
        return sum(percentages) / len(percentages)
    if scores and len({score["metric"] for score in scores.values()}) == 1:
        return sum(score["score"] for score in scores.values()) / len(scores)
    return None


def interval(score: TaskScore, confidence: float = 0.95) -> tuple[float, float] | None:
    """The interval that a score's test examples leave for it, in the score's own unit; None where its metric has none.

    A share of right answers has Wilson's (1927), which is never of no width: ten of ten are not certain. Any other
    score has the normal interval of its standard error.
    """
    right = score["score"] / 100 * score["n"]
    counted = score["metric"] in ("acc", "acc_norm", "exact_match") and abs(right - round(right)) < 1e-6
    if score["unit"] == PERCENT and counted and score["n"] > 0:
        found = binomtest(round(right), score["n"]).proportion_ci(confidence, method="wilson")
        return 100 * float(found.low), 100 * float(found.high)
    if score["stderr"] is None:
        return None
    half = float(norm.ppf((1 + confidence) / 2)) * score["stderr"]
    return score["score"] - half, score["score"] + half


def left_out_of_mean(scores: Mapping[str, TaskScore]) -> list[str]:
    """The tasks that `macro_average` does not count: those not in percent, where others are."""
    percent = any(score["unit"] == PERCENT for score in scores.values())
    return [name for name, score in scores.items() if percent and score["unit"] != PERCENT]
