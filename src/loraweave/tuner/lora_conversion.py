"""`peft.convert_to_lora` and `save_as_lora` for Weave layers: the adapter's own factors, never a d_out × d_in matrix.

PEFT converts a layer in one private function that has a branch for a method whose factors are known and takes a dense
SVD for all others. Branches cannot be added from outside, so the function is wrapped. Without the wrapper, in a PEFT
that has renamed the function, a warning says so, and conversion still works, by the dense SVD.

Where layers come out with other ranks PEFT writes patterns of rank and alpha, and llama.cpp's converter reads
`lora_alpha` alone: it would scale such layers wrongly. So all layers are given the largest rank among them, with zeros,
and one alpha.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import peft
import torch
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora import conversion
from torch import Tensor, nn

from loraweave.foreign import private_or_warn
from loraweave.lowrank.factors import padded, truncate
from loraweave.tuner.layer import WeaveLinear

CONVERT_ONE_LAYER = "_convert_module_to_lora"
CONVERT = "convert_to_lora"
_Converted = tuple[LoraConfig, dict[str, Tensor]]


def register() -> None:
    """Teach PEFT's conversion about Weave layers; warns where PEFT has not the function that converts a layer."""
    whole = conversion.convert_to_lora
    with_one_rank = _with_one_rank(whole)
    for module in (conversion, lora, peft):
        if getattr(module, CONVERT, None) is whole:
            setattr(module, CONVERT, with_one_rank)
    original = private_or_warn(conversion, CONVERT_ONE_LAYER, "adapters converted to LoRA by their own factors")
    if original is not None:
        setattr(conversion, CONVERT_ONE_LAYER, _with_factors(original))


def _with_factors(original: Callable[..., Any]) -> Callable[..., Any]:
    @torch.no_grad()
    @wraps(original)
    def convert(module: Any, rank: int | float, adapter_name: str = "default") -> tuple[Tensor, Tensor, int]:
        if not isinstance(module, WeaveLinear):
            return original(module, rank, adapter_name)
        if adapter_name not in module.knobs:  # rank 0 tells PEFT to leave the layer out
            return torch.empty(0), torch.empty(0), 0
        lora_A, lora_B = truncate(*module.lora_factors(adapter_name), rank)
        return lora_A, lora_B, lora_A.shape[0]

    return convert


def _with_one_rank(original: Callable[..., _Converted]) -> Callable[..., _Converted]:
    @wraps(original)
    def convert(model: nn.Module, *args: Any, **kwargs: Any) -> _Converted:
        config, tensors = original(model, *args, **kwargs)
        if any(isinstance(module, WeaveLinear) for module in model.modules()):
            _even_out(config, tensors)
        return config, tensors

    return convert


def _even_out(config: LoraConfig, tensors: dict[str, Tensor]) -> None:
    """One rank and one alpha for all layers, in place."""
    end_A, end_B = ".lora_A.weight", ".lora_B.weight"
    layers = [name.removesuffix(end_A) for name in tensors if name.endswith(end_A)]
    rank = max(len(tensors[layer + end_A]) for layer in layers)
    for layer in layers:
        pair = padded(tensors[layer + end_A], tensors[layer + end_B], rank)
        tensors[layer + end_A], tensors[layer + end_B] = pair
    config.r = config.lora_alpha = rank
    config.rank_pattern, config.alpha_pattern = {}, {}
    # The layers by their names: what excluded some of them is not kept, and PEFT would adapt those too.
    config.target_modules = {layer.removeprefix("base_model.model.") for layer in layers}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
