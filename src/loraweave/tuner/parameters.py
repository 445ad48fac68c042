"""The tensors of an adapter in one layer: their names, which are frozen, and their first values."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loraweave.config import WeaveConfig
from loraweave.lowrank import starts

TRAINED = (
    "weave_A",
    "weave_B",
    "weave_channel",
    "weave_router",
    "weave_task_logits",
    "weave_task_embedding",
    "weave_task_gate",
    "weave_task_transform",
)
FROZEN = ("weave_anchor_A", "weave_anchor_B")
PARAMETERS = TRAINED + FROZEN


class AdapterTensors(nn.ParameterDict):
    """One tensor of the layer for each adapter, by the adapter's name.

    accelerate keeps offloaded weights elsewhere and brings a module's own ones in around its call; a dictionary is read
    and never called, so reading does it here.
    """

    def __getitem__(self, key: str) -> Any:
        hook = self.__dict__.get("_hf_hook")  # not getattr, which is slow for what a module lacks
        if hook is None:
            return super().__getitem__(key)
        hook.pre_forward(self)
        try:
            return super().__getitem__(key)
        finally:
            hook.post_forward(self, None)


@dataclass(frozen=True)
class Knobs:
    """What a layer needs to know of its adapter's configuration."""

    config: WeaveConfig
    r: int
    scaling: float


def first_values(config: WeaveConfig, r: int, d_in: int, d_out: int) -> dict[str, Tensor]:
    """The tensors of one layer's new adapter by name, where training starts (`loraweave.lowrank.starts`).

    Args:
        config: the adapter's.
        r: rank in this layer.
        d_in, d_out: size of the layer.
    """
    heads, tasks = config.num_heads, len(config.task_names or ())
    A = torch.empty(1 if config.down == "shared" else heads, r, d_in)
    B = torch.zeros(heads, d_out, r)
    values = {"weave_A": A, "weave_B": B}
    if config.start == "random_anchored":
        values["weave_anchor_A"], values["weave_anchor_B"] = starts.anchored(A, B)
    else:
        starts.kaiming(A)
    if config.start == "zero_gate" or not config.init_weights:
        starts.kaiming(B)
    uniform = config.start == "random_anchored"
    if config.gate == "channel":
        values["weave_channel"] = starts.channel_gate(heads, d_out, config.start, config.init_weights)
    elif config.gate == "token":
        values["weave_router"] = starts.logits(heads, d_in, zero=uniform)
    elif config.gate == "task":
        values["weave_task_logits"] = starts.logits(tasks, heads, zero=uniform)
    elif config.gate == "task_embedding":
        values["weave_task_embedding"] = torch.randn(tasks, config.task_embedding_dim)
        values["weave_task_gate"] = starts.logits(heads, config.task_embedding_dim, zero=uniform)
    if config.task_transform:
        values["weave_task_transform"] = torch.eye(r).repeat(tasks, 1, 1)
    return values
