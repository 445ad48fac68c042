"""The tensors of an adapter in one layer: their names, which are frozen, their shapes and first values."""

from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from loraweave.config import WeaveConfig
from loraweave.lowrank import starts

MASK = "weave_B_mask"  # boolean: which entries of B are trained
TRAINED = (
    "weave_A",
    "weave_B",
    "weave_channel",
    "weave_router",
    "weave_task_logits",
    "weave_task_embedding",
    "weave_task_gate",
    "weave_task_transform",
    "weave_core",
)
FROZEN = ("weave_anchor_A", "weave_anchor_B", MASK)
PARAMETERS = TRAINED + FROZEN


def rank_and_alpha(config: Any, layer: str) -> tuple[int, float]:
    """r and lora_alpha of a layer: the configuration's patterns for it (Weave's or PEFT's LoRA's), else its own.

    Args:
        config: with PEFT's fields `r`, `lora_alpha`, `rank_pattern` and `alpha_pattern`.
        layer: its path.
    """
    rank = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), layer), config.r)
    return rank, config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), layer), config.lora_alpha)


def scaling_of(lora_alpha: float, r: int, use_rslora: bool) -> float:
    """s = lora_alpha / r, or lora_alpha / √r with rsLoRA."""
    return lora_alpha / (r**0.5 if use_rslora else r)


def heads_of(config: WeaveConfig, layer: str) -> int:
    """N of a layer: the configuration's pattern for it, else its own."""
    return config.num_heads_pattern.get(get_pattern_key(list(config.num_heads_pattern), layer), config.num_heads)


def first_values(config: WeaveConfig, layer: str, d_in: int, d_out: int) -> dict[str, Tensor]:
    """The tensors of one layer's new adapter by name, where training starts (`loraweave.lowrank.starts`).

    Args:
        config: the adapter's.
        layer: its path, which the configuration's patterns may name.
        d_in, d_out: size of the layer.
    """
    r, heads, tasks = rank_and_alpha(config, layer)[0], heads_of(config, layer), len(config.task_names or ())
    A = torch.empty(1 if config.down == "shared" else heads, r, d_in)
    B = torch.zeros(heads if config.up == "per_head" else 1, d_out, r)
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
        reads = d_in if config.router_input == "x" else A.shape[0] * r
        values["weave_router"] = starts.logits(config.gate_groups * heads, reads, zero=uniform)
    elif config.gate == "task":
        values["weave_task_logits"] = starts.logits(tasks, heads, zero=uniform)
    elif config.gate == "task_embedding":
        values["weave_task_embedding"] = torch.randn(tasks, config.task_embedding_dim)
        values["weave_task_gate"] = starts.logits(heads, config.task_embedding_dim, zero=uniform)
    if config.up == "shared":
        values["weave_core"] = torch.empty(heads, r, r)
        starts.kaiming(values["weave_core"])
    if config.up_density < 1:
        values[MASK] = starts.random_mask(B, config.up_density)
    if config.task_transform == "diagonal":
        values["weave_task_transform"] = torch.ones(tasks, r)
    elif config.task_transform:
        values["weave_task_transform"] = torch.eye(r).repeat(tasks, 1, 1)
    return values


def trained_numbers(model: nn.Module) -> dict[str, int]:
    """By the name of each parameter that is trained, how many of its numbers are: of a sparse B those that are not held
    at zero. On the meta device, which has no masks to look at, as many as are drawn at random."""
    parameters, counts = dict(model.named_parameters()), {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            mask = parameters.get(name.replace(".weave_B.", f".{MASK}.")) if ".weave_B." in name else None
            counts[name] = parameter.numel()
            if mask is not None and mask.is_meta:
                density = model.peft_config[name.rpartition(".")[2]].up_density  # type: ignore[index, union-attr]
                counts[name] = len(mask) * starts.how_many(density, mask[0].numel())
            elif mask is not None:
                counts[name] = int(mask.sum())
    return counts
