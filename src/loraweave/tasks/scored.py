"""Rows of data as a task of lm-eval's, which then scores them: labels ranked, answers written, or text measured.

Its documents are rendered already, so that lm-eval takes no number for a choice and no list for several answers.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from loraweave.errors import UserError, nearest
from loraweave.tasks.formats import TEXT_METRICS, Format, Pairs, PlainText, Templates
from loraweave.tasks.labels import Labels

Document = dict[str, Any]

METRICS: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("acc", "acc_norm", "f1", "mcc"),
    "generate_until": ("exact_match", "bleu", "chrf", "ter"),
    "loglikelihood_rolling": TEXT_METRICS,
}
"""lm-eval's metrics by the way in which it asks; the loss on held-out rows goes with any."""

FIRST_LINE = {"function": "regex", "regex_pattern": r"\A\s*([^\n]*)"}
"""lm-eval's filter for the first line of a text that is not blank."""

SHOTS_FROM = 1_000
"""Training rows that solved examples are taken from, where an evaluation asks for some."""


class ScoredRows(ConfigurableTask):
    """lm-eval's task over documents that are at hand."""

    def __init__(self, config: dict[str, Any], documents: Mapping[str, Sequence[Document]]) -> None:
        self._documents = documents
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.dataset = datasets.DatasetDict(
            {name: datasets.Dataset.from_list(list(some)) for name, some in self._documents.items()}
        )

    def process_results(self, doc: Any, results: Any) -> Any:
        """White space around an answer is no part of it: a prompt may end with some or leave it to the answer. A solved
        example has it, as training has. Nor does it matter of which code points a letter is made: many tokenizers
        (Qwen, GPT-NeoX) know composed ones alone, and a model writes nothing else."""
        if self.OUTPUT_TYPE == "generate_until":
            doc, results = {**doc, "completion": _compared(doc["completion"])}, [_compared(results[0])]
        return super().process_results(doc, results)


def _compared(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def way_of(found: Format, where: str) -> str | None:
    """How lm-eval asks for rows of a format, which its metric decides; None for the loss on held-out rows.

    Raises:
        UserError: the metric does not go with the format.
    """
    if found.metric == "loss":
        return None
    way = None
    if isinstance(found, Labels):
        way = "multiple_choice"
    elif isinstance(found, PlainText):
        way = "loglikelihood_rolling"
    elif isinstance(found, (Templates, Pairs)) and not found.always_chat:
        way = "generate_until"
    known = (*(METRICS[way] if way else ()), "loss")
    if found.metric not in known:
        raise UserError(
            f"{where}: {found.name} is scored by {' or '.join(known)}, not by {found.metric!r}"
            f"{nearest(found.metric, known)}"
        )
    if isinstance(found, Pairs) and "tools" in found.columns:  # which lm-eval would ask without
        raise UserError(f"{where}: its rows have 'tools', and are scored by loss, not by {found.metric!r}")
    if isinstance(found, Labels) and found.metric == "f1" and len(found.choices) != 2:
        raise UserError(f"{where}: the metric f1 is of two labels, and here are {len(found.choices)}; take mcc or acc")
    return way


def scored_rows(
    name: str, way: str, metric: str, shots: Sequence[Document], test: Sequence[Document], answers: Sequence[str]
) -> ScoredRows:
    """An lm-eval task that scores documents.

    Args:
        name: of the task in the run.
        way: of asking, a key of `METRICS`.
        metric: one of them.
        shots: documents to take solved examples from.
        test: documents to score, at least one.
        answers: that are learned or scored. Where none has several lines, what is written ends with its line: at the
            first line end or, where one stands before an answer, behind the first line that says something.
    """
    from lm_eval.api.registry import get_metric_aggregation, is_higher_better

    config: dict[str, Any] = {
        "task": name,
        "training_split": "training" if shots else None,
        "test_split": "test",
        "output_type": way,
        "doc_to_text": "" if way == "loglikelihood_rolling" else "prompt",
        "doc_to_target": "gold" if way == "multiple_choice" else "completion",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [
            {
                "metric": metric,
                "aggregation": get_metric_aggregation(metric),
                "higher_is_better": is_higher_better(metric),
            }
        ],
    }
    if way == "multiple_choice":
        config["doc_to_choice"] = "choices"
    if way == "generate_until":
        several = any("\n" in answer.strip() for answer in answers)
        before = any("\n" in answer.rstrip() for answer in answers)
        config["generation_kwargs"] = {"until": [] if before else ["\n"], "do_sample": False}
        if before and not several:
            config["filter_list"] = [{"name": "first line", "filter": [FIRST_LINE, {"function": "take_first"}]}]
    return ScoredRows(config, {"test": test, **({"training": shots} if shots else {})})
