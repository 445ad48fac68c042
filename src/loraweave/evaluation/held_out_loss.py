"""The score of a task that lm-eval does not know: its loss on examples that training has not seen."""

import hashlib
import math
import time
from collections.abc import Callable

from transformers import PreTrainedModel

from loraweave.data.encode import IGNORED, Encoded
from loraweave.evaluation.outcomes import weighted
from loraweave.evaluation.repeats import with_repeats
from loraweave.evaluation.scored_tokens import batches, score_rows
from loraweave.evaluation.scores import TaskScore

Report = Callable[[int, int], None]


def score_with_loss(
    model: PreTrainedModel, encoded: Encoded, *, rows_at_once: int, tokens_at_once: int | None, report: Report
) -> TaskScore:
    """Loss in nats per completion token over `encoded.rows`, in `scored_tokens.batches` of so many rows and tokens;
    `report(done, of)` counts rows.

    The mean is over tokens, as in training; its standard error is over examples, because the tokens of one example
    are not independent, nor are the rows of one long text.
    """
    started = time.perf_counter()
    rows = encoded.rows
    examples = encoded.by_example
    number = {kept: place for place, kept in enumerate(dict.fromkeys(encoded.kept))}
    counts, losses = [0] * len(examples), [0.0] * len(examples)
    done = 0
    for batch in batches([len(row["input_ids"]) for row in rows], rows_at_once, tokens_at_once):
        asked = [_scored(rows[index]["labels"]) for index in batch]
        found = score_rows(model, [rows[index]["input_ids"] for index in batch], asked)
        for index, scores in zip(batch, found, strict=True):
            example = number[encoded.kept[index]]
            losses[example] -= sum(log_prob for log_prob, _ in scores)
            counts[example] += len(scores)
        done += len(batch)
        report(done, len(rows))
    tokens = sum(counts)
    mean = sum(losses) / tokens
    n = len(losses)
    spread = sum((loss - mean * count) ** 2 for loss, count in zip(losses, counts, strict=True))
    questions = [tuple(token for row in some for token in row["input_ids"]) for some in examples]
    each = [loss / count if count else 0.0 for loss, count in zip(losses, counts, strict=True)]
    score = TaskScore(
        score=mean,
        stderr=math.sqrt(spread * n / (n - 1)) / tokens if n > 1 else None,
        n=n,
        metric="loss",
        unit="nats",
        higher_is_better=False,
        filter="none",
        metrics={"loss": mean, "tokens": float(tokens)},
        num_fewshot=0,
        version=None,
        requests=hashlib.sha256(repr([row["input_ids"] for row in rows]).encode()).hexdigest()[:16],
        truncated=encoded.cut,
        seconds=time.perf_counter() - started,
        outcomes=weighted(each, counts, questions),
    )
    if encoded.dropped:
        score["left_out"] = encoded.dropped
    return with_repeats(score, questions)


def _scored(labels: list[int]) -> list[tuple[int, int]]:
    """Each token that counts, with the column before it."""
    return [(column, label) for column, label in enumerate(labels[1:]) if label != IGNORED]
