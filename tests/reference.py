"""The formula, written as the papers write it: a loop over heads, one head's output at a time. Slow and plain.

What the fast code must equal, in values and gradients. It shares no line with it.
"""

import torch
from torch import Tensor


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
