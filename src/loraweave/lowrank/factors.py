"""Plain LoRA factors: the best pair of a smaller rank, the same pair with a larger one, and how much an update is."""

import torch
from torch import Tensor
from torch.nn.functional import pad


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


def padded(lora_A: Tensor, lora_B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The same update with a larger rank: zeros in the place of what is not there.

    Args:
        lora_A: (R, d_in). lora_B: (d_out, R). rank: R or more.

    Returns:
        (rank, d_in) and (d_out, rank).
    """
    missing = rank - len(lora_A)
    return pad(lora_A, (0, 0, 0, missing)), pad(lora_B, (0, missing))


def energy(lora_A: Tensor, lora_B: Tensor) -> float:
    """The squared Frobenius norm of lora_B @ lora_A, by way of (R, R): tr(BᵀB AAᵀ)."""
    return float(((lora_B.T @ lora_B) * (lora_A @ lora_A.T)).sum())
