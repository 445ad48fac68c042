"""`peft.convert_to_lora` and `save_as_lora` for Weave layers: the adapter's own factors, never a d_out × d_in matrix.

PEFT converts a layer in one private function that has a branch for a method whose factors are known and takes a dense
SVD for all others. Branches cannot be added from outside, so the function is wrapped. Without the wrapper, in a PEFT
that has renamed the function, conversion still works, by the dense SVD.
"""

from functools import wraps
from typing import Any

import torch
from peft.tuners.lora import conversion
from torch import Tensor

from loraweave.lowrank.factors import truncate
from loraweave.tuner.layer import WeaveLinear

CONVERT_ONE_LAYER = "_convert_module_to_lora"


def register() -> None:
    """Teach PEFT's conversion about Weave layers."""
    original = getattr(conversion, CONVERT_ONE_LAYER, None)
    if original is None:
        return

    @torch.no_grad()
    @wraps(original)
    def convert(module: Any, rank: int | float, adapter_name: str = "default") -> tuple[Tensor, Tensor, int]:
        if not isinstance(module, WeaveLinear):
            return original(module, rank, adapter_name)
        if adapter_name not in module.knobs:  # rank 0 tells PEFT to leave the layer out
            return torch.empty(0), torch.empty(0), 0
        lora_A, lora_B = truncate(*module.lora_factors(adapter_name), rank)
        return lora_A, lora_B, lora_A.shape[0]

    setattr(conversion, CONVERT_ONE_LAYER, convert)
