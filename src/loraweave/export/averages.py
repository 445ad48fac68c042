"""The heads' mean weights over a task's data: what takes a router's place where an export cannot have one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from loraweave.adapters.file import AdapterFile
from loraweave.data.encode import EncodedRow
from loraweave.tuner import WeaveLinear


@torch.no_grad()
def mean_weights(model: PeftModel, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
    """By layer, the heads' weights averaged over every token of some rows.

    Args:
        model: with a routed adapter on it, told its task where it needs one.
        rows: read one at a time, without padding.

    Returns:
        (N,), or (G, N) where groups of output channels are weighed apart; in float64. Of the layers that any row came
        through: an expert that nobody chose has none.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(layer: WeaveLinear, name: str) -> Callable[[nn.Module, Any], None]:
        formula = layer.formula("default")

        def see(_: nn.Module, inputs: Any) -> None:
            x = inputs[0].to(formula.A.dtype)
            weights = formula.token_weights(x).flatten(0, x.ndim - 2).double()
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + weights.sum(0).cpu()
            counts[name] = counts.get(name, 0) + len(weights)

        return see

    layers = {m.layer_name: m for m in model.modules() if isinstance(m, WeaveLinear)}
    routed = {name: layer for name, layer in layers.items() if layer.formula("default").depends_on_input}
    hooks = [layer.register_forward_pre_hook(watch(layer, name)) for name, layer in routed.items()]
    try:
        for row in rows:
            model(input_ids=torch.tensor([row["input_ids"]], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def uniform_weights(adapter: AdapterFile) -> dict[str, Tensor]:
    """By layer, every head's weight the same."""
    heads = {layer: len(adapter.formula(layer).B) for layer in adapter.sizes}
    return {layer: torch.full((count,), 1 / count, dtype=torch.float64) for layer, count in heads.items()}
