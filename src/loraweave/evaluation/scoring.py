"""Score one loaded model on many tasks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from loraweave.data.encode import encode_all
from loraweave.errors import UserError
from loraweave.evaluation.harness import score_with_harness
from loraweave.evaluation.held_out_loss import score_with_loss
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.samples import Keep, loss_samples
from loraweave.evaluation.scores import TaskScore
from loraweave.quiet import quiet_libraries, without_bars
from loraweave.tuner.context import task as told
from loraweave.tuner.layer import WeaveLinear

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraweave.tasks import Task

Progress = Callable[[str, int, int], None]


def without_score(tasks: Sequence[Task]) -> list[str]:
    """The names of the tasks that have nothing to be scored on, which is no reason not to score the others.

    Raises:
        UserError: none of them has anything.
    """
    names = [task.name for task in tasks if not task.is_scored]
    if len(names) == len(tasks):
        raise _unscored(tasks[0])
    return names


def not_scored(names: Sequence[str]) -> list[str]:
    """What is to be said of tasks `without_score`; nothing where there are none."""
    return [f"{', '.join(names)}: not scored, too few rows to hold some out: name a file as 'test'"] if names else []


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    num_fewshot: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    keep: Keep | None = None,
    told_as: str | None = None,
) -> dict[str, TaskScore]:
    """Score `model` on each of `tasks`.

    A task with an lm-eval task is scored by its first metric; another by its loss on its test examples (nats per
    completion token, lower is better). Prompts go through the tokenizer's chat template where the task says so.

    Args:
        model: a causal model, adapted by PEFT or not, on whichever device; its mode, training or evaluation, is left
            as found. An adapter that chooses its weights by task is told the task.
        tokenizer: the base's.
        tasks: from `load_tasks`.
        limit: the first so many test examples of each task; all when None.
        batch_size: rows per forward pass; by default 64, and fewer where they are long (`lm.TOKENS`).
        num_fewshot: solved examples before each question. Training sees none, so 0 by default.
        seed: chooses the solved examples and the bootstrap's draws.
        progress: called with the task's name, requests done and requests in all.
        keep: called with the task's name and its samples, once a task is scored.
        told_as: the task that an adapter is told, in the place of each one's own name.

    Returns:
        A score per task, in the order of `tasks`.

    Raises:
        UserError: naming the task, when one cannot be evaluated; or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 example, got {limit}")
    was_training = model.training
    try:
        with quiet_libraries(), without_bars(), torch.random.fork_rng():
            torch.manual_seed(seed)
            lm = LoadedModel(model, tokenizer, batch_size)
            model.eval()
            found = {}
            for task in tasks:
                report = partial(progress or _unheard, task.name)
                with _told_the_task(model, told_as or task.name):
                    found[task.name] = _score(lm, task, limit, num_fewshot, seed, report, keep)
            return found
    finally:
        model.train(was_training)


def _score(
    lm: LoadedModel,
    task: Task,
    limit: int | None,
    num_fewshot: int,
    seed: int,
    report: Callable[[int, int], None],
    keep: Keep | None,
) -> TaskScore:
    if task.lm_eval is not None:
        return score_with_harness(
            lm,
            task.name,
            task.lm_eval,
            limit=limit,
            num_fewshot=num_fewshot,
            chat_template=task.chat_template,
            thinks=task.thinks,
            seed=seed,
            report=report,
            keep=keep,
        )
    examples = task.test_examples()[:limit]
    if not examples:
        raise _unscored(task)
    encoded = encode_all(examples, lm.tokenizer, lm.max_length)
    score = score_with_loss(lm.model, encoded, rows_at_once=lm.batch_size, tokens_at_once=lm.most_tokens, report=report)
    if keep is not None:
        keep(task.name, loss_samples(task.name, encoded.by_example, lm.tokenizer, score["outcomes"]))
    return score


def _unscored(task: Task) -> UserError:
    return UserError(
        f"task {task.name!r}: {task.origin} has too few rows to hold some out for the score: name a file as 'test'"
    )


def _told_the_task(model: PreTrainedModel | PeftModel, name: str) -> AbstractContextManager[None]:
    """The context in which a model with Weave layers knows its task; any other model needs none."""
    if any(isinstance(module, WeaveLinear) for module in model.modules()):
        return told(model, name)
    return nullcontext()


def _unheard(name: str, done: int, of: int) -> None:
    """Progress that nobody watches."""
