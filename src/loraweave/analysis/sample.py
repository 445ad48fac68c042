"""Run a few examples of every task through a trained run, to see which head its router weighs where."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loraweave.analysis.routing import LayerRouting, Routing, mean_over_layers
from loraweave.analysis.subjects import AnalysedRun
from loraweave.bases import device
from loraweave.data.collate import Collator
from loraweave.data.encode import EncodedRow, TooLongError, encode_all
from loraweave.data.prepare import longest_example
from loraweave.data.rows import TaskTokens, TokenRows
from loraweave.runs.loading import Run, load_run
from loraweave.tasks import Task
from loraweave.tuner.context import attach
from loraweave.tuner.probe import Probe

ROWS = 8  # per forward pass
SEEN = 3  # times a token must occur before its mean weight means anything
SHOWN = 10  # tokens per head


@dataclass
class RouterSample:
    """What the sample showed.

    Attributes:
        routing: entropy and use of the heads by layer and task.
        tokens: the most typical tokens of every head, by layer and, for layer None, by the mean over layers.
    """

    routing: Routing
    tokens: list[dict[str, Any]]


class _TokenProbe(Probe):
    """Adds up, over all batches, the heads' weights by token and by task.

    Args:
        tokens: the ids in the sample, sorted.
        num_tasks: K.
    """

    def __init__(self, tokens: np.ndarray, num_tasks: int) -> None:
        self.ids = torch.from_numpy(tokens)
        self.counts_by_token = torch.zeros(len(tokens), dtype=torch.long)
        self.counts_by_task = torch.zeros(num_tasks, dtype=torch.long)
        self.by_token: dict[str, Tensor] = {}  # (tokens, N) per layer
        self.by_task: dict[str, Tensor] = {}  # (K, N + 1) per layer, the entropy last

    def batch(self, input_ids: Tensor, tasks: Tensor, padding: Tensor) -> None:
        """What the next forward pass reads."""
        self.there = ~padding.flatten()
        self.kinds = torch.searchsorted(self.ids, input_ids.flatten()[self.there])
        self.task_ids = tasks.flatten()[self.there]
        self.counts_by_token.index_add_(0, self.kinds, torch.ones_like(self.kinds))
        self.counts_by_task.index_add_(0, self.task_ids, torch.ones_like(self.task_ids))

    def see(self, layer: str, u: Tensor, weights: Tensor | None = None, B: Tensor | None = None) -> None:
        if weights is None or weights.shape[-1] < 2 or weights.shape[:-1].numel() != len(self.there):
            return
        seen = weights.flatten(0, -2).float().cpu()[self.there]
        entropy = torch.special.entr(seen).sum(-1, keepdim=True)
        for sums, places, values, size in (
            (self.by_token, self.kinds, seen, len(self.ids)),
            (self.by_task, self.task_ids, torch.cat([seen, entropy], 1), len(self.counts_by_task)),
        ):
            if layer not in sums:
                sums[layer] = torch.zeros(size, values.shape[1])
            sums[layer].index_add_(0, places, values)


def sample_router(run: AnalysedRun, count: int, trust_code: bool = False) -> RouterSample:
    """Weigh the heads of a run with a token router on examples of its own tasks.

    Args:
        run: a finished run; its base is loaded.
        count: validation examples per task; training examples where a task has none.
        trust_code: run functions that its task files name, and code that comes with its base.

    Raises:
        UserError: the run, its base or its tasks cannot be loaded.
    """
    loaded = load_run(run.folder, base=run.base_given, trust_code=trust_code)
    rows = _rows(loaded, count)
    model = loaded.model.to(device())
    probe = _TokenProbe(np.unique(rows.joined(range(len(rows)))["input_ids"]), len(loaded.tasks))
    collate = Collator(loaded.tokenizer.pad_token_id)
    with torch.no_grad(), attach(model.get_base_model()).watched_by(probe):
        for start in range(0, len(rows), ROWS):
            batch = collate([rows.joined([i]) for i in range(start, min(start + ROWS, len(rows)))])
            probe.batch(batch["input_ids"], batch["tasks"], batch["padding"])
            model(input_ids=batch["input_ids"].to(model.device), tasks=batch["tasks"].to(model.device), use_cache=False)
    names = [task.name for task in loaded.tasks]
    routing = {_layer(key): _routing(sums, probe.counts_by_task, names) for key, sums in probe.by_task.items()}
    return RouterSample(routing, [{"run": run.name, **entry} for entry in _typical(probe, loaded.tokenizer)])


def _layer(key: str) -> str:
    """The layer's path from the name under which it reports, which ends in the adapter's."""
    return key.rpartition(".")[0]


def _rows(loaded: Run, count: int) -> TokenRows:
    """The first examples of each task that fit, as token rows."""
    length = longest_example(loaded.config.train["max_length"], loaded.model)
    return TokenRows(
        [
            TaskTokens.of(chain.from_iterable(islice(_fitting(task, loaded.tokenizer, length), count)))
            for task in loaded.tasks
        ]
    )


def _fitting(task: Task, tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[list[EncodedRow]]:
    """The rows of each example whose answer is not too long: training left the others out."""
    for example in task.validation_examples() or task.training_examples():
        with suppress(TooLongError):
            yield encode_all([example], tokenizer, length).rows


def _routing(sums: Tensor, counts: Tensor, names: Sequence[str]) -> LayerRouting:
    there = [(task, row.double() / count) for task, row, count in zip(names, sums, counts, strict=True) if count]
    return LayerRouting(
        {task: float(row[-1]) / math.log(len(row) - 1) for task, row in there}, {task: row[:-1] for task, row in there}
    )


def _typical(probe: _TokenProbe, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Per head, the tokens that it has the highest mean weight on, among those seen often enough."""
    often = (probe.counts_by_token >= SEEN).nonzero().flatten()
    if not len(often) or not probe.by_token:
        return
    counts = probe.counts_by_token[often]
    means = {_layer(key): sums[often] / counts[:, None] for key, sums in probe.by_token.items()}
    for layer, weights in [(None, mean_over_layers(means.values())), *means.items()]:
        for head in range(weights.shape[1]):
            best = weights[:, head].topk(min(SHOWN, len(often))).indices
            yield {
                "head": head,
                "layer": layer,
                "tokens": [
                    {"token": _text(tokenizer, int(probe.ids[often[i]])), "weight": weight, "count": int(counts[i])}
                    for i, weight in zip(best.tolist(), weights[best, head].tolist(), strict=True)
                ],
            }


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What the token stands for; its name in the vocabulary where it is a part of a character."""
    text = str(tokenizer.decode([token]))
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))
