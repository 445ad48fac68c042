"""One lm-eval task, scored by lm-eval itself: its prompts, its metrics, its standard errors."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from jinja2 import TemplateError
from lm_eval.api import metrics as harness_metrics
from lm_eval.api.task import Task as HarnessTask
from lm_eval.evaluator import evaluate as harness_evaluate

from loraweave.errors import UserError, in_a_line
from loraweave.evaluation.lm import LoadedModel, ProgressHook
from loraweave.evaluation.outcomes import Outcomes, shares, weighted
from loraweave.evaluation.paired import standard_error
from loraweave.evaluation.repeats import with_repeats
from loraweave.evaluation.samples import Keep, harness_samples, named_metrics
from loraweave.evaluation.scores import PERCENT, TaskScore
from loraweave.files import finite
from loraweave.tasks.sandbox import reason_of

# Metrics that lm-eval gives as a share between 0 and 1 (mcc: between -1 and 1); people read them in percent.
SHARES = frozenset(
    {
        "acc",
        "acc_all",
        "acc_bytes",
        "acc_mutual_info",
        "acc_norm",
        "em",
        "exact_match",
        "f1",
        "mc1",
        "mc2",
        "mcc",
        "prefix_match",
        "quasi_exact_match",
    }
)

# For metrics whose standard error has no formula; lm-eval's own 100,000 take longer than the evaluation.
BOOTSTRAP_ROUNDS = 1000


def score_with_harness(
    lm: LoadedModel,
    name: str,
    task: HarnessTask,
    *,
    limit: int | None,
    num_fewshot: int,
    chat_template: bool,
    thinks: bool = False,
    seed: int,
    report: Callable[[int, int], None],
    keep: Keep | None = None,
) -> TaskScore:
    """Score `task` (called `name` in the run) on the model inside `lm`; `report(done, of)` counts requests, `keep` is
    given the samples. `thinks`: the model was taught to think before it answers.

    The headline is the first metric of the task's `metric_list` with the task's first filter. Raises `UserError`
    when lm-eval cannot run the task, with its reason.
    """
    started = time.perf_counter()
    num_fewshot = 0 if task.OUTPUT_TYPE == "loglikelihood_rolling" else num_fewshot  # a text asks nothing
    task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=seed)
    lm.set_cache_hook(ProgressHook(lambda done: report(done, _total(task))))
    lm.begin(chat_template, thinks and task.OUTPUT_TYPE == "generate_until")
    truncated_before = lm.truncated
    try:
        with _in_this_process():
            results = harness_evaluate(
                lm=lm,
                task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
                limit=limit,
                bootstrap_iters=BOOTSTRAP_ROUNDS,
                log_samples=True,
                apply_chat_template=chat_template,
                fewshot_as_multiturn=chat_template,
            )
    except OverflowError as error:  # a text without spaces is one word, and its surprise goes through the exponential
        raise UserError(
            f"task {name!r}: its score is too large for a number; a perplexity is by words or bytes that surprise a "
            "model that much: take `bits_per_byte` for its metric"
        ) from error
    except (TemplateError, ArithmeticError, RecursionError) as error:  # of a template of the task or of the tokenizer
        raise UserError(f"task {name!r}: a template fails: {reason_of(error)}") from error
    except (AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
        raise UserError(f"task {name!r}: lm-eval cannot evaluate it: {in_a_line(error)}") from error
    found = results["results"][name]
    measured = {key: float(value) for key, value in found.items() if isinstance(value, (int, float, np.number))}
    metric, used_filter = _headline(task, measured)
    share = metric in SHARES or metric.startswith(("pass@", "pass_at_"))
    scale = 100.0 if share else 1.0
    stderr = measured.get(f"{metric}_stderr,{used_filter}")
    better = results["higher_is_better"][name].get(metric)
    version = results["versions"].get(name)
    score = scale * measured[f"{metric},{used_filter}"]
    if not math.isfinite(score):
        raise UserError(f"task {name!r}: its {metric} is no number over these examples ({score})")
    answered = _answered(results["samples"][name], used_filter)
    asked = [repr(sample["arguments"]) for sample in answered]
    outcomes = _outcomes([sample.get(metric) for sample in answered], metric, score, scale, asked)
    if keep is not None:
        keep(name, harness_samples(name, task, answered, metric, outcomes))
    made = TaskScore(
        score=score,
        stderr=None if stderr is None else scale * stderr,
        n=results["n-samples"][name]["effective"],
        metric=metric,
        unit=PERCENT if share else "",
        higher_is_better=True if better is None else better,
        filter=used_filter,
        metrics=finite({key: value for key, value in measured.items() if key != "sample_len"}),
        num_fewshot=num_fewshot,
        version=None if version is None else str(version),
        requests=_fingerprint(task),
        truncated=lm.truncated - truncated_before,
        seconds=time.perf_counter() - started,
        outcomes=outcomes,
    )
    if metric == "bits_per_byte":  # the mean of weighted outcomes, for which lm-eval has none
        made["stderr"] = standard_error(outcomes)
    return with_repeats(made, asked)


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Inside it lm-eval draws its bootstrap without other processes, which would be forks of one that has threads and
    the model, for a single piece of work; the draws are the same. And it prints nothing of it."""
    with patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}), patch.object(harness_metrics, "print", create=True):
        yield


def _outcomes(each: Sequence[Any], metric: str, score: float, scale: float, asked: Sequence[str]) -> Outcomes | None:
    """Of each example; of a text its bits per byte, which count by its bytes."""
    if metric == "bits_per_byte":
        return weighted([-nats / size / math.log(2) for nats, size in each], [size for _, size in each], asked)
    return shares(each, score, scale, asked)


def _answered(samples: Sequence[Mapping[str, Any]], used_filter: str) -> list[Mapping[str, Any]]:
    """What was said to each document, in the order of the documents."""
    return sorted((sample for sample in samples if sample["filter"] == used_filter), key=lambda each: each["doc_id"])


def _total(task: HarnessTask) -> int:
    return sum(instance.repeats for instance in task.instances)


def _headline(task: HarnessTask, measured: dict[str, Any]) -> tuple[str, str]:
    """The name and filter of the metric that stands for the task."""
    found = [key.rsplit(",", 1) for key in measured if "," in key and not key.rsplit(",", 1)[0].endswith("_stderr")]
    for metric in [*named_metrics(task), *(name for name, _ in found)]:
        for name, used_filter in found:
            if name == metric:
                return name, used_filter
    raise UserError(f"task {task.config.task!r}: lm-eval returned no metric for it")


def _fingerprint(task: HarnessTask) -> str:
    """A hash of every prompt and target, in order."""
    digest = hashlib.sha256()
    for instance in task.instances:
        digest.update(repr(instance.args).encode())
    return digest.hexdigest()[:16]
