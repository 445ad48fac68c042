"""Test examples that ask the same as others: a score counts each, but they tell as much as one of them."""

import math
from collections.abc import Hashable, Mapping, Sequence

from loraweave.evaluation.paired import standard_error
from loraweave.evaluation.scores import TaskScore


def with_repeats(score: TaskScore, asked: Sequence[Hashable]) -> TaskScore:
    """`score`, with the standard error that its different examples leave and their number, where some ask the same.

    Args:
        score: of `len(asked)` examples, with the standard error of as many different ones.
        asked: what each asks.
    """
    distinct = len(set(asked))
    if distinct == len(asked):
        return score
    if score["outcomes"] is not None:
        error = standard_error(score["outcomes"])
    else:
        error = None if score["stderr"] is None else score["stderr"] * math.sqrt(len(asked) / distinct)
    return {**score, "stderr": error, "distinct": distinct}


def about_repeats(scores: Mapping[str, TaskScore]) -> list[str]:
    """A line for each task in which some examples ask the same."""
    return [
        f"{name}: only {score['distinct']:,} of the {score['n']:,} examples ask something different; "
        "intervals and tests count each question once."
        for name, score in scores.items()
        if "distinct" in score
    ]
