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

from loraweave.tuner.merging import MergeableLayer

CONVERT_ONE_LAYER = "_convert_module_to_lora"


def truncate(lora_A: Tensor, lora_B: Tensor, rank: int | float) -> tuple[Tensor, Tensor]:
    """The best approximation of lora_B @ lora_A by factors of a smaller rank.

    With B = Q_B R_B and Aᵀ = Q_A R_A the singular values of B A are those of the small R_B R_Aᵀ.

    Args:
        lora_A: (R, d_in). lora_B: (d_out, R).
        rank: the rank wanted; or, as a float, the share of the squared singular values to keep.

    Returns:
        (k, d_in) and (d_out, k). The very factors given when k would not be below R, or for a share of 1.
    """
    native = lora_A.shape[0]
    if rank >= native if isinstance(rank, int) else rank >= 1.0:
        return lora_A, lora_B
    wide = torch.promote_types(lora_A.dtype, torch.float32)
    basis_out, core_out = torch.linalg.qr(lora_B.to(wide))
    basis_in, core_in = torch.linalg.qr(lora_A.T.to(wide))
    left, values, right = torch.linalg.svd(core_out @ core_in.T, full_matrices=False)
    if isinstance(rank, int):
        kept = min(rank, len(values))
    else:
        energy = values.square().cumsum(0)
        kept = min(int(torch.searchsorted(energy, rank * energy[-1])) + 1, len(values))
    up = basis_out @ (left[:, :kept] * values[:kept])
    down = right[:kept] @ basis_in.T
    return down.to(lora_A.dtype).contiguous(), up.to(lora_B.dtype).contiguous()


def register() -> None:
    """Teach PEFT's conversion about Weave layers."""
    original = getattr(conversion, CONVERT_ONE_LAYER, None)
    if original is None:
        return

    @torch.no_grad()
    @wraps(original)
    def convert(module: Any, rank: int | float, adapter_name: str = "default") -> tuple[Tensor, Tensor, int]:
        if not isinstance(module, MergeableLayer):
            return original(module, rank, adapter_name)
        if adapter_name not in module.knobs:  # rank 0 tells PEFT to leave the layer out
            return torch.empty(0), torch.empty(0), 0
        lora_A, lora_B = truncate(*module.lora_factors(adapter_name), rank)
        return lora_A, lora_B, lora_A.shape[0]

    setattr(conversion, CONVERT_ONE_LAYER, convert)
