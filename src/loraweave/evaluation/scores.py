"""One task's score, and the interval that its test examples leave for it."""

from scipy.stats import binomtest, t
from typing_extensions import TypedDict

from loraweave.evaluation.outcomes import Outcomes

PERCENT, NATS = "%", "nats"
CONFIDENCE = 0.95


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


def interval(score: TaskScore) -> tuple[float, float] | None:
    """The 95 % interval that a score's test examples leave for it, in the score's own unit; None where its metric has
    none.

    A share of right answers has Clopper and Pearson's (1934), which is never of no width: ten of ten are not certain.
    Any other score has Student's t times its standard error.
    """
    right = score["score"] / 100 * score["n"]
    counted = score["metric"] in ("acc", "acc_norm", "exact_match") and abs(right - round(right)) < 1e-6
    if score["unit"] == PERCENT and counted and score["n"] > 0:
        found = binomtest(round(right), score["n"]).proportion_ci(CONFIDENCE, method="exact")
        return 100 * float(found.low), 100 * float(found.high)
    if score["stderr"] is None:
        return None
    half = float(t.ppf((1 + CONFIDENCE) / 2, max(1, score["n"] - 1))) * score["stderr"]
    return score["score"] - half, score["score"] + half
