"""The mean over tasks: which of them it is over, in which unit, and which it leaves out and why. The only such rule."""

from collections.abc import Mapping
from typing import NamedTuple

from loraweave.evaluation.scores import NATS, PERCENT, TaskScore


class MeanRule(NamedTuple):
    """What the mean over some tasks is.

    Attributes:
        counted: the tasks that it is over; empty where the tasks have no mean.
        left_out: why each other task is not in it, in words that go on after its name and a colon.
        unit: of the mean, as of the tasks in it.
        higher_is_better: whether a higher mean is the better one.
    """

    counted: tuple[str, ...]
    left_out: dict[str, str]
    unit: str
    higher_is_better: bool


def mean_rule(tasks: Mapping[str, Mapping[str, object]]) -> MeanRule:
    """The rule: scores in percent have a mean, and so have scores that all have one metric; others have none.

    A percentage and a loss, or a percentage and a BLEU, cannot be averaged: with both present the others are left out.

    Args:
        tasks: by name, each with `metric`, `unit` and `higher_is_better`: scores, or what is known of the tasks.
    """
    counted = [name for name, task in tasks.items() if task["unit"] == PERCENT]
    if not counted and len({task["metric"] for task in tasks.values()}) == 1:
        counted = [*tasks]
    left_out = {name: _reason(task, bool(counted)) for name, task in tasks.items() if name not in counted}
    if not counted:
        return MeanRule((), left_out, "", True)
    first = tasks[counted[0]]
    return MeanRule(tuple(counted), left_out, str(first["unit"]), bool(first["higher_is_better"]))


def macro_average(scores: Mapping[str, TaskScore]) -> float | None:
    """The mean over the tasks that `mean_rule` counts, each for as much as any other; None where they have no mean."""
    return mean_of(scores, mean_rule(scores))


def mean_of(scores: Mapping[str, TaskScore], rule: MeanRule) -> float | None:
    """The mean by a rule that was made of more than these scores; None where one of its tasks has no score here."""
    counted = [scores[name]["score"] for name in rule.counted if name in scores]
    return sum(counted) / len(counted) if counted and len(counted) == len(rule.counted) else None


def left_out_of_mean(scores: Mapping[str, TaskScore]) -> list[str]:
    """The tasks that `macro_average` does not count, where it counts others."""
    rule = mean_rule(scores)
    return [*rule.left_out] if rule.counted else []


def _reason(task: Mapping[str, object], others: bool) -> str:
    if task["unit"] == NATS:
        said = "a held-out loss in nats per token, where lower is better"
    else:
        said = f"{task['metric']}, which is no percentage"
    return said if others else f"{said}, and the tasks share no metric"
