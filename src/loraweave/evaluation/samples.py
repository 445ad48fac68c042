"""What a model was asked and what it said, example by example: samples.jsonl, and what follows from it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.task import Task as HarnessTask
from transformers import PreTrainedTokenizerBase
from typing_extensions import TypedDict

from loraweave.data.encode import IGNORED, EncodedRow
from loraweave.evaluation.outcomes import Outcomes, read_outcomes
from loraweave.files import write_json_lines


class Sample(TypedDict):
    """One test example and what became of it.

    `number` counts the task's examples from 1, in the order in which they were asked. `prediction` is the choice that
    the model finds likeliest, or the text that it wrote, as it was scored; None where only a likelihood was asked for.
    `outcome` is what the example counts for in the score, in the score's unit (right: 100, wrong: 0); None where the
    metric is no mean over examples.
    """

    task: str
    number: int
    prompt: str
    target: str
    prediction: str | None
    outcome: float | None


Keep = Callable[[str, list[Sample]], None]
"""Called with a task's name and its samples."""

MOST_CLASSES = 50


def harness_samples(
    name: str, task: HarnessTask, answered: Sequence[Mapping[str, Any]], metric: str, outcomes: Outcomes | None
) -> list[Sample]:
    """Of an lm-eval task.

    Args:
        name: of the task in the run.
        task: lm-eval's.
        answered: lm-eval's samples of the filter that the score is of, in the order of the documents.
        metric: that the score is of: some choose by another likelihood.
        outcomes: of the same examples.
    """
    found = []
    for number, (each, outcome) in enumerate(zip(answered, _values(outcomes, len(answered)), strict=True), start=1):
        prompt = each["arguments"][0][0]
        target, prediction = _target_and_answer(task, each, metric)
        found.append(
            Sample(task=name, number=number, prompt=str(prompt), target=target, prediction=prediction, outcome=outcome)
        )
    return found


def loss_samples(
    name: str, examples: Sequence[Sequence[EncodedRow]], tokenizer: PreTrainedTokenizerBase, outcomes: Outcomes | None
) -> list[Sample]:
    """Of a task that is scored by its loss on examples, each in its rows."""
    found = []
    for number, (rows, outcome) in enumerate(zip(examples, _values(outcomes, len(examples)), strict=True), start=1):
        labelled = [pair for row in rows for pair in zip(row["input_ids"], row["labels"], strict=True)]
        prompt = tokenizer.decode([token for token, label in labelled if label == IGNORED])
        target = tokenizer.decode([token for token, label in labelled if label != IGNORED])
        found.append(Sample(task=name, number=number, prompt=prompt, target=target, prediction=None, outcome=outcome))
    return found


def _values(outcomes: Outcomes | None, count: int) -> list[float | None]:
    read = read_outcomes(outcomes)
    return [None] * count if read is None else read.values.tolist()


def named_metrics(task: HarnessTask) -> list[str]:
    """The metrics that a task's configuration names; a task's score is of the first that it has."""
    return [entry["metric"] for entry in task.get_config("metric_list") or [] if isinstance(entry["metric"], str)]


def chosen(choices: Sequence[str], likelihoods: Sequence[float], metric: str) -> int:
    """Which choice a model takes, as lm-eval has it where it computes a metric.

    Args:
        choices: the texts.
        likelihoods: log-probabilities in nats of the choices after the prompt, in their order, and for
            `acc_mutual_info` then those of the choices after nothing.
        metric: `acc_norm` divides by characters, `acc_bytes` by bytes, `acc_mutual_info` takes the likelihood after
            nothing off, any other takes the likeliest.
    """
    values = np.array(likelihoods[: len(choices)])
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty choice is the least likely, as for lm-eval
        if metric == "acc_norm":
            values = values / [len(choice) for choice in choices]
        elif metric == "acc_bytes":
            values = values / [len(choice.encode()) for choice in choices]
        elif metric == "acc_mutual_info" and len(likelihoods) == 2 * len(choices):
            values = values - likelihoods[len(choices) :]
    return int(values.argmax())


def _target_and_answer(task: HarnessTask, each: Mapping[str, Any], metric: str) -> tuple[str, str | None]:
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [str(choice) for choice in task.doc_to_choice(each["doc"])]
        gold = each["target"]
        if getattr(task, "multiple_input", 0):  # the choices stand in the prompts, and the target follows all of them
            gold = task.doc_to_text(each["doc"])
        gold = gold[0] if isinstance(gold, list) and gold else gold
        target = choices[gold] if isinstance(gold, int) and 0 <= gold < len(choices) else str(gold)
        likelihoods = [float(answer[0]) for answer in each["filtered_resps"]]
        return target, choices[chosen(choices, likelihoods, metric)] if likelihoods else None
    target = each["target"]
    target = str(target[0] if isinstance(target, list) and target else target)
    answer = each["filtered_resps"][0] if each["filtered_resps"] else None
    if task.OUTPUT_TYPE != "generate_until":
        return target, None
    return target, str(answer[0] if isinstance(answer, list) and answer else answer)


def classes(samples: Sequence[Sample]) -> list[str]:
    """The answers that a task chooses between, the most frequent first; none where its answers are texts of their own.

    Answers are classes where there are few of them, and each is right for several examples on average.
    """
    counts = Counter(sample["target"].strip() for sample in samples)
    if any(sample["prediction"] is None for sample in samples) or not 1 < len(counts) <= MOST_CLASSES:
        return []
    return [name for name, _ in counts.most_common()] if 2 * len(counts) <= len(samples) else []


def majority(samples: Sequence[Sample]) -> float | None:
    """In percent, how often one is right who always gives the most frequent answer; None without `classes`."""
    known = classes(samples)
    if not known:
        return None
    return 100 * sum(sample["target"].strip() == known[0] for sample in samples) / len(samples)


def about_one_answer(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """A line for each task that asked for one and the same answer, as the first rows of a file that is sorted do."""
    said = []
    for name, some in samples.items():
        targets = {sample["target"].strip() for sample in some if sample["prediction"] is not None}
        if len(some) > 1 and len(targets) == 1:
            said.append(
                f"{name}: the right answer to all {len(some):,} examples is {targets.pop()!r}; the score says nothing "
                "of other answers."
            )
    return said


def with_base(ours: Sequence[Sample], bases: Sequence[Sample]) -> list[dict[str, Any]]:
    """The samples of a task, each with what the untouched base said where it was asked the same."""
    lines: list[dict[str, Any]] = [dict(sample) for sample in ours]
    if [sample["prompt"] for sample in ours] == [sample["prompt"] for sample in bases]:
        for line, other in zip(lines, bases, strict=True):
            line |= {"base_prediction": other["prediction"], "base_outcome": other["outcome"]}
    return lines


def write_samples(path: Path, samples: Mapping[str, Sequence[Sample]], bases: Mapping[str, Sequence[Sample]]) -> None:
    """Write a line for each example of each task, with what the untouched base said to it."""
    lines = [line for name, ours in samples.items() for line in with_base(ours, bases.get(name, ()))]
    write_json_lines(path, lines)
