"""Where training starts: the first values of A, B and the gates. Every start but a random one leaves y = W x.

zero_up           B = 0, A Kaiming-uniform; routers and task logits Kaiming-uniform, since heads that start alike and
                  are weighted alike would get the same gradient for ever
zero_gate         A and B Kaiming-uniform, the channel gate at zero (MultiLoRA)
random_anchored   every B_h random, their mean subtracted as a frozen low-rank pair; gates start uniform (R-LoRA)
"""

import math

import torch
from torch import Tensor
from torch.nn import init

ANCHOR_GAMMA = 64.0  # γ of R-LoRA's start (v1, table 1)


def kaiming(*tensors: Tensor) -> None:
    """Kaiming-uniform with a = √5, the bound 1/√fan_in, in place; the last dimension is fan_in."""
    for tensor in tensors:
        bound = 1.0 / math.sqrt(tensor.shape[-1])
        init.uniform_(tensor, -bound, bound)


@torch.no_grad()
def anchored(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """R-LoRA's random start, in place, and the anchor that cancels it (2502.15455 v1, table 1).

    A = d_out^¼/√γ · N(0, 1/d_in), B_h = d_out^¼/√γ · N(0, 1/d_out), where N(0, v) has variance v.

    Args:
        A: (1, r, d_in). B: (N, d_out, r).

    Returns:
        A₀ (r, d_in) and B̄₀ (d_out, r), the mean over heads: with uniform gates Σ_h B_h A x / N = B̄₀ A₀ x.
    """
    d_out, d_in = B.shape[1], A.shape[2]
    gain = d_out**0.25 / math.sqrt(ANCHOR_GAMMA)
    init.normal_(A, std=gain / math.sqrt(d_in))
    init.normal_(B, std=gain / math.sqrt(d_out))
    return A[0].clone(), B.mean(0)


def logits(*shape: int, zero: bool) -> Tensor:
    """A router, a gate or task logits (…, fan_in): zero, so that all heads weigh alike, or Kaiming-uniform."""
    tensor = torch.zeros(*shape)
    if not zero:
        kaiming(tensor)
    return tensor


def channel_gate(num_heads: int, d_out: int, start: str, identity: bool = True) -> Tensor:
    """First values of a channel gate (N, d_out): 0 for "zero_gate", 1/N for "random_anchored", else around 1.

    With "zero_up" the gates are drawn from U(0.5, 1.5): heads on a shared A that start with B = 0 and equal gates
    would never part.

    Args:
        num_heads: N.
        d_out: output channels.
        start: the start's name.
        identity: False draws the gates of "zero_gate" too.
    """
    if start == "random_anchored":
        return torch.full((num_heads, d_out), 1.0 / num_heads)
    if start == "zero_gate" and identity:
        return torch.zeros(num_heads, d_out)
    return torch.empty(num_heads, d_out).uniform_(0.5, 1.5)


def random_mask(B: Tensor, density: float) -> Tensor:
    """Booleans in the shape of B (N, d_out, r), in each head as many True: a share `density`, at least one."""
    return largest(torch.rand(B.shape, device=B.device), density)


def how_many(density: float, numbers: int) -> int:
    """A share `density` of so many numbers; one at least."""
    return max(1, round(density * numbers))


def largest(sizes: Tensor, density: float) -> Tensor:
    """Which of each head's numbers are its largest.

    Args:
        sizes: (N, …).
        density: the share of each head's numbers that is kept; one at least.

    Returns:
        (N, …) booleans.
    """
    flat = sizes.flatten(1)
    kept = flat.topk(how_many(density, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, kept, True).view(sizes.shape)
