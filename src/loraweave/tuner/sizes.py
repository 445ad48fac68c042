"""How large what is to be adapted is: a linear layer says it, a block shows it by its first and last linear layer."""

from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn
from transformers.pytorch_utils import Conv1D

from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.tuner.merging import quantization_of


def is_linear(layer: nn.Module) -> bool:
    """Whether PEFT knows the size of a layer: nn.Linear, Conv1D, or a quantised one."""
    return isinstance(layer, (nn.Linear, Conv1D)) or quantization_of(layer) is not None


def linear_size(layer: nn.Module, name: str) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer; UserError naming the layer if it is not one."""
    if is_linear(layer):
        size = _get_in_out_features(layer)
    else:
        size = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not isinstance(size[0], int) or not isinstance(size[1], int):
        raise UserError(
            f"layer {name} is a {type(layer).__name__} and cannot be adapted; possible are nn.Linear, Conv1D and "
            "modules with in_features and out_features: change target_modules or exclude_modules"
        )
    return size


def block_size(block: nn.Module, name: str) -> tuple[int, int]:
    """(d_in, d_out) by the block's first and last linear layer; UserError where there is none."""
    layers = [layer for layer in block.modules() if is_linear(layer)]
    if not layers:
        return linear_size(block, name)
    return linear_size(layers[0], name)[0], linear_size(layers[-1], name)[1]


def is_block(module: nn.Module) -> bool:
    """Whether an adapter for this module belongs beside it and not into it: no linear layer, with some within."""
    if is_linear(module) or isinstance(getattr(module, "in_features", None), int):
        return False
    return any(is_linear(layer) for layer in module.modules())


def check_room(config: WeaveConfig, r: int, name: str, d_in: int, d_out: int) -> None:
    """Raise UserError where a layer is too small for an adapter of rank r, or for its groups of output channels."""
    limit = max(d_in, d_out)
    if r > limit:
        raise UserError(
            f"layer {name}: rank {r} is above its size {d_in} → {d_out}; "
            f"use r ≤ {limit}, a smaller rank_pattern entry, or exclude_modules"
        )
    if config.gate_groups > d_out:
        raise UserError(f"layer {name}: gate_groups={config.gate_groups} is above its {d_out} channels")
