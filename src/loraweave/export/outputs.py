"""What a model says to some rows, kept to be compared with what another says to the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import PreTrainedModel

from loraweave.data.encode import IGNORED, EncodedRow

KEPT = 2**26
"""Logits that are kept to be compared one by one, of all rows together (256 MB); losses are of all rows."""


@dataclass
class Outputs:
    """Of one model on some rows.

    Attributes:
        logits: (tokens, V) of the first rows, float32 on the CPU; of the first row always, of its end if need be.
        labels: (tokens,) of those rows, the token that follows each place, `IGNORED` where it carries no loss.
        loss: in nats, summed over scored tokens of all rows; tokens: how many. rows: all of them.
    """

    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    loss: float = 0.0
    tokens: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Difference:
    """Between two models on the same rows.

    Attributes:
        largest: |Δ| of any logit.
        scale: the largest logit of the first model, without its sign.
        kl: from the first to the second, in nats per scored token.
        loss: of each, in nats per scored token.
        rows: whose logits were compared; tokens: that carry the losses, of all rows; of: how many these are.
    """

    largest: float
    scale: float
    kl: float
    loss: tuple[float, float]
    rows: int
    tokens: int
    of: int


@torch.no_grad()
def outputs(
    model: PreTrainedModel | PeftModel, rows: Sequence[EncodedRow], room: int = KEPT, everywhere: bool = True
) -> Outputs:
    """Run a model over rows, one at a time; its task is told by the caller.

    Args:
        model: to run.
        rows: to run it on.
        room: logits to be kept, in numbers.
        everywhere: keep those of every place, and not of those alone whose token is scored.
    """
    seen = Outputs(rows=len(rows))
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=model.device)
        logits = model(input_ids=ids).logits[0].float().cpu()
        labels = torch.tensor([*row["labels"][1:], IGNORED])
        scored = int((labels != IGNORED).sum())
        if scored:
            seen.loss += float(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            seen.tokens += scored
        if not everywhere:
            logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
        if not seen.logits:  # a long one may be more than there is room for, with 150,000 tokens to choose from
            places = max(1, room // logits.shape[1])
            logits, labels = logits[-places:].clone(), labels[-places:]
        room -= logits.numel()
        if len(logits) and (room >= 0 or not seen.logits):
            seen.logits.append(logits)
            seen.labels.append(labels)
    return seen


@torch.no_grad()
def share_kept(base: Sequence[Outputs], adapter: Sequence[Outputs], export: Sequence[Outputs]) -> float | None:
    """How much of what an adapter changes in its base's logits an export changes too.

    Rounding moves logits here and there, and over all of them hardly along that change: 1 for an export that does what
    the adapter does, 0 for one that does what the base does.

    Args:
        base, adapter, export: what each says to the same rows.

    Returns:
        The export's change along the adapter's, as a share of the latter; None where the adapter changes nothing.
    """
    along = whole = 0.0
    for three in zip(base, adapter, export, strict=True):
        for bare, one, other in zip(*(each.logits for each in three), strict=True):
            change = (one - bare).double()
            along += float((change * (other - bare)).sum())
            whole += float(change.square().sum())
    return along / whole if whole else None


def difference(first: Outputs, second: Outputs) -> Difference:
    """Compare two models' outputs on the same rows."""
    largest = scale = kl = 0.0
    scored = 0
    for one, other, labels in zip(first.logits, second.logits, first.labels, strict=True):
        largest = max(largest, float((one - other).abs().max()))
        scale = max(scale, float(one.abs().max()))
        here = labels != IGNORED
        p, q = (log_softmax(x[here].double(), dim=-1) for x in (one, other))
        kl += float(kl_div(q, p, reduction="sum", log_target=True))
        scored += int(here.sum())
    tokens = max(first.tokens, 1)
    losses = first.loss / tokens, second.loss / tokens
    return Difference(
        largest, scale, max(kl, 0.0) / max(scored, 1), losses, len(first.logits), first.tokens, first.rows
    )
