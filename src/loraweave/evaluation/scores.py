"""One task's score, and the mean over tasks whose scores may be averaged."""

from collections.abc import Mapping
from typing import TypedDict

PERCENT = "%"


class TaskScore(TypedDict):
    """What a model scored on one task; plain JSON types, as it is written to a results file.

    `score` is in `unit`: "%" for a share of right answers (0 to 100), "nats" for a loss per token, "" for anything
    else. `stderr` is in the same unit, the standard error that comes from having only `n` examples; None where
    the metric has none. `metrics` holds every metric of the task, as lm-eval names and scales it. `requests` is a hash
    of every prompt and target: two scores with the same one answered the same questions. `truncated` counts the
    requests that were longer than the model reads and lost their beginning.
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
