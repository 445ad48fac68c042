"""Scores on what a model was not trained for: asked without a task, or as each task that its adapter knows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.evaluation.outcomes import read_outcomes, weighted
from loraweave.evaluation.paired import standard_error
from loraweave.evaluation.scores import TaskScore
from loraweave.evaluation.scoring import evaluate
from loraweave.tasks import Task


def evaluate_untrained(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, things: Sequence[Task], **how: Any
) -> dict[str, TaskScore]:
    """Score a model on tasks and texts that it was not trained for.

    An adapter that answers by task has no task for them. It is asked as each of its tasks in turn, and has the mean.

    Args:
        model, tokenizer: as of `evaluate`.
        things: from `load_untrained`.
        how: further arguments of `evaluate`.

    Returns:
        A score for each of them; empty for none.

    Raises:
        UserError: naming the task, when one cannot be evaluated.
    """
    if not things:
        return {}
    config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    names = list(config.task_names) if getattr(config, "needs_tasks", False) else [None]
    each = [evaluate(model, tokenizer, things, told_as=name, **how) for name in names]
    return {thing.name: averaged([scores[thing.name] for scores in each]) for thing in things}


def averaged(scores: Sequence[TaskScore]) -> TaskScore:
    """The mean of scores on the same examples, example by example.

    Where outcomes are not known, its standard error is the mean of theirs, which is no less than that of the mean.
    """
    if len(scores) == 1:
        return scores[0]
    mean = sum(score["score"] for score in scores) / len(scores)
    read = [read_outcomes(score["outcomes"]) for score in scores]
    kept = [each for each in read if each is not None]
    outcomes, errors = None, [score["stderr"] for score in scores]
    stderr = None if None in errors else sum(error or 0.0 for error in errors) / len(errors)
    if len(kept) == len(read):
        values, weights = np.mean([each.values for each in kept], axis=0), kept[0].weights
        outcomes = weighted(values.tolist(), weights.tolist(), kept[0].asked.tolist())
        stderr = standard_error(outcomes)
    return {
        **scores[0],
        "score": mean,
        "stderr": stderr,
        "metrics": {
            name: None if None in each else sum(value or 0.0 for value in each) / len(scores)
            for name in scores[0]["metrics"]
            if len(each := [score["metrics"][name] for score in scores if name in score["metrics"]]) == len(scores)
        },
        "seconds": sum(score["seconds"] for score in scores),
        "outcomes": outcomes,
    }
