"""What a base layer must be for an update to be added to its weight, and the weight with it added."""

from collections.abc import Mapping
from typing import Any

import torch
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loraweave.errors import UserError

MERGEABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def quantization_of(layer: nn.Module) -> Any:
    """PEFT's description of a quantised layer, or None for one that is not."""
    # PEFT wants to know for torchao's how to quantise a merged weight again; nothing is ever merged into one here.
    return resolve_quantization_backend(layer, get_apply_tensor_subclass=lambda: None)


def mergeable_weight(base: nn.Module, name: str) -> nn.Parameter:
    """The weight of a base layer that an update may be added to.

    Args:
        base: the frozen layer. name: its path, for messages.

    Raises:
        UserError: it is quantised, or what its weight means is not known.
    """
    if quantization_of(base) is not None:
        raise UserError(
            f"layer {name} is quantised: merging would round the update away; merge into the unquantised base instead"
        )
    if not isinstance(base, (nn.Linear, Conv1D)):
        raise UserError(
            f"layer {name} is a {type(base).__name__}: what its weight means is not known, so "
            "nothing can be merged into it; only nn.Linear and Conv1D can"
        )
    weight = base._parameters.get("weight")
    if type(weight) is not nn.Parameter or weight.dtype not in MERGEABLE:
        raise UserError(
            f"layer {name} holds its weight as {type(base.weight).__name__} of {base.weight.dtype}, not "
            "as plain numbers that an update could be added to; merge into the unquantised base instead"
        )
    return weight


@torch.no_grad()
def merged_weight(weight: nn.Parameter, changes: Mapping[str, Tensor], safe: str | None = None) -> nn.Parameter:
    """A new parameter: the weight with changes of its own shape added in float32 or better, in its own dtype.

    Args:
        weight: as in the base.
        changes: ΔW of each adapter by its name.
        safe: the layer's name, to refuse a sum that is not finite.

    Raises:
        UserError: with `safe`, the adapter whose change made the sum not finite.
    """
    merged = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    for adapter, change in changes.items():
        merged = merged + change.to(merged.dtype)
        if safe is not None and not torch.isfinite(merged.to(weight.dtype)).all():
            raise UserError(  # PEFT's words, which its users and its tests look for, and the layer
                f"layer {safe}: NaNs detected in the merged weights. The adapter {adapter} seems to be "
                "broken; nothing was merged into this layer"
            )
    return nn.Parameter(merged.to(weight.dtype), requires_grad=weight.requires_grad)
