"""The formula, written as the papers write it: a loop over heads, one head's output at a time. Slow and plain.

What the fast code must equal, in values and gradients. It shares no line with it.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from loraweave import UserError, WeaveConfig


def delta(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    *,
    weights: Tensor | None = None,
    channel: Tensor | None = None,
    transform: Tensor | None = None,
    masks: Tensor | None = None,
    scaling: float = 1.0,
) -> Tensor:
    """s · Σ_h g_h ⊙ B_h · (mask_h ⊙ Λ A_a(h) x), shapes as in `loraweave.lowrank.delta`."""
    total = x.new_zeros(*x.shape[:-1], B.shape[1])
    for head in range(B.shape[0]):
        a = A[head] if A.shape[0] > 1 else A[0]
        u = torch.einsum("rd,...d->...r", a, x)
        if transform is not None:
            u = torch.einsum("...ij,...j->...i", transform, u)
        if masks is not None:
            u = u * masks[head]
        out = torch.einsum("or,...r->...o", B[head], u)
        if channel is not None:
            out = out * channel[head]
        if weights is not None:
            out = out * weights[..., head, None]
        total = total + out
    return scaling * total


def softmax(logits: Tensor, top_k: int | None = None) -> Tensor:
    """Over the last dimension, of the highest top_k alone."""
    if top_k is not None:
        lowest = logits.sort(-1, descending=True).values[..., top_k - 1 : top_k]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    return torch.softmax(logits, -1)


def update(config: Any, tensors: Mapping[str, Tensor], x: Tensor, ids: Tensor) -> Tensor:
    """The whole update of a layer without dropout, for every knob that a configuration has.

    Args:
        config: a `WeaveConfig`.
        tensors: by their names in an adapter file.
        x: (…, d_in).
        ids: (…) the task of each token.
    """
    t = {name.removeprefix("weave_"): tensor for name, tensor in tensors.items()}
    if "B_mask" in t:
        t["B"] = torch.where(t["B_mask"], t["B"], 0)
    if "core" in t:
        t["B"] = torch.stack([t["B"][0] @ core for core in t["core"]])
    heads, scaling = len(t["B"]), config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    weights = transform = None
    if config.gate == "uniform":
        weights = x.new_full((*x.shape[:-1], heads), 1 / heads)
    elif config.gate == "task":
        weights = softmax(t["task_logits"] / config.temperature, config.top_k)[ids]
    elif config.gate == "task_embedding":
        weights = softmax(t["task_embedding"] @ t["task_gate"].T, config.top_k)[ids]
    elif config.gate == "own":
        weights = torch.eye(heads, dtype=x.dtype)[ids]
    if config.task_transform:
        transform = t["task_transform"][ids]
        transform = torch.diag_embed(transform) if config.task_transform == "diagonal" else transform

    def of(B: Tensor, weights: Tensor | None) -> Tensor:
        channel = t.get("channel")
        return delta(x, t["A"], B, weights=weights, channel=channel, transform=transform, scaling=scaling)

    if config.gate == "token":
        source = x if config.router_input == "x" else torch.cat([x @ a.T for a in t["A"]], -1)
        routers, channels = t["router"].split(heads), torch.arange(t["B"].shape[1]).tensor_split(config.gate_groups)
        parts = zip(routers, channels, strict=True)  # a router for each group of output channels
        y = torch.cat([of(t["B"][:, part], softmax(source @ router.T, config.top_k)) for router, part in parts], -1)
    else:
        y = of(t["B"], weights)
    return y - scaling * x @ t["anchor_A"].T @ t["anchor_B"].T if "anchor_A" in t else y


def combinations(names: list[str]) -> Iterator[dict[str, Any]]:
    """Every combination of knobs that a `WeaveConfig` for these tasks takes, as keyword arguments."""
    some = ({}, {"top_k": 2}, {"gate_groups": 2}, {"router_input": "rank"}, {"num_heads": 1}, {"up_density": 0.4})
    routed = {"top_k": 2, "gate_groups": 3, "router_input": "rank"}
    for gate, down, start, transform, extra in itertools.product(
        ("uniform", "channel", "token", "task", "task_embedding", "own"),
        ("shared", "per_head"),
        ("zero_up", "zero_gate", "random_anchored"),
        (False, True, "diagonal"),
        (*some, {"up": "shared"}, routed, {**routed, "up": "shared"}, {"train_down": False, "use_rslora": True}),
    ):
        knobs = {"gate": gate, "down": down, "start": start, "task_transform": transform, "r": 2}
        knobs |= {"num_heads": len(names) if gate == "own" else 3, **({"temperature": 0.7} if gate == "task" else {})}
        knobs |= extra
        try:
            WeaveConfig(task_names=names, **knobs)
        except UserError:
            continue
        yield knobs
