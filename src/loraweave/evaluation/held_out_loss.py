"""The score of a task that lm-eval does not know: its loss on examples that training has not seen."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from loraweave.data.encode import IGNORED, Encoded, EncodedRow
from loraweave.evaluation.outcomes import Outcomes, weighted
from loraweave.evaluation.scores import TaskScore


def score_with_loss(
    model: PreTrainedModel, encoded: Encoded, *, batch_size: int, pad: int, report: Callable[[int, int], None]
) -> TaskScore:
    """Loss in nats per completion token over `encoded.rows`; `report(done, of)` counts rows.

    The mean is over tokens, as in training; its standard error is over examples, because the tokens of one example
    are not independent.
    """
    started = time.perf_counter()
    rows = encoded.rows
    longest_first = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))
    losses: list[float] = []
    counts: list[int] = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in longest_first[start : start + batch_size]]
        batch_losses, batch_counts = _losses(model, batch, pad)
        losses += batch_losses
        counts += batch_counts
        report(len(losses), len(rows))
    tokens = sum(counts)
    mean = sum(losses) / tokens
    n = len(losses)
    spread = sum((loss - mean * count) ** 2 for loss, count in zip(losses, counts, strict=True))
    return TaskScore(
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
        outcomes=_outcomes(losses, counts, longest_first),
    )


def _outcomes(losses: Sequence[float], counts: Sequence[int], order: Sequence[int]) -> Outcomes:
    """Loss per token and number of tokens of each example, in the task's own order; they come in `order`."""
    each = sorted(zip(order, losses, counts, strict=True))
    return weighted([loss / count if count else 0.0 for _, loss, count in each], [count for _, _, count in each])


def _losses(model: PreTrainedModel, batch: Sequence[EncodedRow], pad: int) -> tuple[list[float], list[int]]:
    """Summed loss and number of scored tokens of each row."""
    length = max(len(row["input_ids"]) for row in batch)

    def padded(lists: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists], device=model.device)

    inputs = padded([row["input_ids"] for row in batch], pad)
    mask = padded([[1] * len(row["input_ids"]) for row in batch], 0)
    labels = padded([row["labels"] for row in batch], IGNORED)[:, 1:]
    with torch.no_grad():
        logits = model(input_ids=inputs, attention_mask=mask).logits[:, :-1].float()
    each = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return each.sum(dim=1).tolist(), (labels != IGNORED).sum(dim=1).tolist()
