"""Who speaks for whom: how evenly the heads are weighed on each task, from the run's own record or the adapter."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import TypedDict

from loraweave.analysis.subjects import AnalysedRun
from loraweave.errors import UserError
from loraweave.shapes import read_shaped


@dataclass(frozen=True)
class LayerRouting:
    """The heads' weights in one layer.

    Args:
        entropy: per task, mean over its tokens of the weights' entropy over ln N: 1 when all heads weigh alike.
        usage: per task, (N,) the heads' mean weights on its tokens.
    """

    entropy: dict[str, float]
    usage: dict[str, Tensor]


Routing = dict[str, LayerRouting]
"""By layer."""


class _RecordedLayer(TypedDict):
    entropy_by_task: list[float | None]
    usage: list[list[float] | None]


class _Recorded(TypedDict):
    """routing.json."""

    tasks: list[str]
    layers: dict[str, _RecordedLayer]


def recorded_routing(run: AnalysedRun) -> Routing:
    """Of a token router, from routing.json: the last step of training that was looked at. Empty without that file."""
    if not run.has_router or run.files is None or not run.files.routing.is_file():
        return {}
    record = read_shaped(run.files.routing, _Recorded)
    found = {}
    for key, layer in record["layers"].items():
        if not len(record["tasks"]) == len(layer["entropy_by_task"]) == len(layer["usage"]):
            raise UserError(
                f"{run.files.routing}: layers.{key}: not one entry for each of {len(record['tasks'])} tasks"
            )
        rows = zip(record["tasks"], layer["entropy_by_task"], layer["usage"], strict=True)
        there = [(task, entropy, usage) for task, entropy, usage in rows if usage is not None]
        if any(entropy is None for _, entropy, _ in there):
            raise UserError(f"{run.files.routing}: layers.{key}.entropy_by_task: lacks that of a task with usage")
        if len({len(usage) for _, _, usage in there}) > 1:
            raise UserError(f"{run.files.routing}: layers.{key}.usage: its rows have different numbers of heads")
        found[key.removesuffix(".default")] = LayerRouting(
            {task: entropy for task, entropy, _ in there},
            {task: torch.tensor(usage, dtype=torch.float64) for task, _, usage in there},
        )
    return found


def task_routing(run: AnalysedRun) -> Routing:
    """Of a task gate, from the adapter itself: exact. Empty for other methods."""
    if run.adapter is None or run.weave is None or not run.weave.has_task_gate:
        return {}
    found = {}
    for layer in run.adapter.sizes:
        weights = run.adapter.formula(layer).head_weights()
        if weights.shape[1] < 2:  # nothing to weigh
            continue
        entropies = torch.special.entr(weights).sum(-1) / math.log(weights.shape[1])
        found[layer] = LayerRouting(
            dict(zip(run.adapter.tasks, entropies.tolist(), strict=True)),
            dict(zip(run.adapter.tasks, weights, strict=True)),
        )
    return found


def usage_by_layer(routing: Routing) -> dict[str, Tensor]:
    """By layer, (K, N) over the tasks that had tokens."""
    return {layer: torch.stack(list(one.usage.values())) for layer, one in routing.items() if one.usage}


def entries(name: str, routing: Routing, modules: Mapping[str, str]) -> list[dict[str, Any]]:
    """A run's entries, one per layer."""
    return [
        {
            "run": name,
            "layer": layer,
            "module": modules[layer],
            "entropy": one.entropy,
            "usage": {task: weights.tolist() for task, weights in one.usage.items()},
        }
        for layer, one in routing.items()
        if layer in modules
    ]


def summary(name: str, routing: Routing) -> dict[str, Any]:
    """Means over layers: a row of head weights and an entropy per task."""
    tasks = list(dict.fromkeys(task for one in routing.values() for task in one.usage))
    return {
        "run": name,
        "tasks": tasks,
        "usage": [
            mean_over_layers(one.usage[task] for one in routing.values() if task in one.usage).tolist()
            for task in tasks
        ],
        "entropy": [fmean(one.entropy[task] for one in routing.values() if task in one.entropy) for task in tasks],
    }


def mean_over_layers(values: Iterable[Tensor]) -> Tensor:
    """The mean of (…, N) over layers; of a head that some layers do not have, over those that have it."""
    values = list(values)
    most = max(value.shape[-1] for value in values)
    return torch.stack([pad(value, (0, most - value.shape[-1]), value=math.nan) for value in values]).nanmean(0)
