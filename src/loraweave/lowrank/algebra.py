"""The algebra of every method: one skinny product down, a mix in rank space, one skinny product up.

    y = W x  +  s · Σ_h  g_h ⊙ B_h · D_h( Λ · A_a(h) x )

Torch only. The names of tensors are the papers': A goes down to rank r, B goes up from it, N heads. A scalar gate
commutes with B (g_h (B_h u) = B_h (g_h u)), so gates, task transforms and per-head dropout all act on the small vector
of N·r numbers per token; a gate with one number per output channel is a factor of B. No step makes a tensor of
(…, N, d_out).
"""

import torch
from torch import Tensor
from torch.nn.functional import linear


def mix(
    u: Tensor,
    num_heads: int,
    *,
    weights: Tensor | None = None,
    transform: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """What happens between the two products, on `u = A x`.

    Args:
        u: (…, a, r) with a = 1 (one A shared by all heads) or a = num_heads.
        num_heads: N.
        weights: (…, N) scalar gates, or None for gates of 1. Broadcasts over leading dimensions.
        transform: (…, r, r), Λ of each token's task (MTL-LoRA), or None.
        masks: (N, …, r) dropout masks, already scaled by 1 / (1 - p), or None.

    Returns:
        (…, N·r). When A is shared and no argument tells the heads apart this is (…, r): the heads then act as the one
        matrix Σ_h B_h, which `stack_up` builds for `merged=True`.
    """
    if transform is not None:
        u = transformed(u, transform)
    if weights is None and masks is None and u.shape[-2] != num_heads:
        return u.flatten(-2)
    u = u.expand(*u.shape[:-2], num_heads, u.shape[-1])
    if masks is not None:
        u = u * masks.movedim(0, -2)
    if weights is not None:
        u = u * weights.unsqueeze(-1)
    return u.flatten(-2)


def transformed(u: Tensor, transform: Tensor, diagonal: bool = False) -> Tensor:
    """Λ u.

    Args:
        u: (…, a, r).
        transform: (…, r, r) of each token's task; or (…, r), the diagonals, with `diagonal`. Broadcasts.
    """
    transform = transform.to(u.dtype)
    if diagonal:
        return u * transform.unsqueeze(-2)
    if transform.ndim == u.ndim and u.ndim >= 4 and transform.shape[-3] == 1:
        # One transform for all tokens of a sequence: a product per sequence, not a copy of Λ per token.
        return torch.matmul(u.flatten(-3, -2), transform.squeeze(-3).transpose(-1, -2)).view_as(u)
    return torch.matmul(u, transform.transpose(-1, -2))


def stack_up(B: Tensor, *, channel: Tensor | None = None, merged: bool = False) -> Tensor:
    """All heads' B as one matrix, rows in the order of `mix`.

    Args:
        B: (N, d_out, r).
        channel: (N, d_out) gate per output channel, or None. diag(g_h) B_h are weights, not activations.
        merged: sum over the heads instead of stacking them, for a shared `u`.

    Returns:
        (N·r, d_out), or (r, d_out) when merged.
    """
    if channel is not None:
        B = B * channel.unsqueeze(-1)
    if merged:
        return B.sum(0).T
    return B.transpose(1, 2).flatten(0, 1)


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
    """The low-rank update of one layer's output.

    Args:
        x: (…, d_in).
        A: (1 or N, r, d_in).
        B: (N, d_out, r).
        weights: (…, N) scalar gate of each head for each token; leading dimensions broadcast against x.
        channel: (N, d_out) gate of each head for each output channel (MultiLoRA).
        transform: (…, r, r) the task's transform of A x (MTL-LoRA).
        masks: (N, …, r) dropout masks on A x, scaled by 1 / (1 - p) (R-LoRA).
        scaling: s, usually lora_alpha / r.

    Returns:
        (…, d_out).

    Raises:
        ValueError: when the shapes do not fit each other.
    """
    check_shapes(A, B, d_in=x.shape[-1])
    num_heads = B.shape[0]
    u = linear(x, A.flatten(0, 1)).unflatten(-1, A.shape[:2])
    mixed = mix(u, num_heads, weights=weights, transform=transform, masks=masks)
    up = stack_up(B, channel=channel, merged=mixed.shape[-1] != num_heads * B.shape[-1])
    return (mixed * scaling) @ up


def fold(
    A: Tensor,
    B: Tensor,
    *,
    weights: Tensor | None = None,
    channel: Tensor | None = None,
    transform: Tensor | None = None,
    scaling: float = 1.0,
    anchor: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The factors of a plain LoRA that does the same, exactly; possible whenever the gates do not depend on x.

    Args:
        A: (1 or N, r, d_in).
        B: (N, d_out, r).
        weights: (N,) fixed scalar gates, or None for 1.
        channel: (N, d_out) or None.
        transform: (r, r) of one task, or None.
        scaling: goes into the second factor, so that the pair needs none.
        anchor: the frozen pair (A₀ (r, d_in), B̄₀ (d_out, r)) whose product is taken away, or None.

    Returns:
        (lora_A (R, d_in), lora_B (d_out, R)) with ΔW = lora_B @ lora_A. R is r for one shared A, N·r for one A per
        head, and r more with an anchor.
    """
    check_shapes(A, B, d_in=A.shape[-1])
    if weights is not None:
        B = B * weights.to(B.dtype)[:, None, None]
    if transform is not None:
        A = transform.to(A.dtype) @ A
    up = stack_up(B, channel=channel, merged=A.shape[0] == 1).T * scaling
    down = A.flatten(0, 1)
    if anchor is not None:
        down = torch.cat([down, anchor[0]])
        up = torch.cat([up, -scaling * anchor[1]], dim=1)
    return down.contiguous(), up.contiguous()


def check_shapes(A: Tensor, B: Tensor, *, d_in: int) -> None:
    """Raise ValueError unless A is (1 or N, r, d_in) and B is (N, d_out, r)."""
    if A.ndim != 3 or B.ndim != 3:
        raise ValueError(f"A must be (1 or N, r, d_in) and B (N, d_out, r); got {tuple(A.shape)} and {tuple(B.shape)}")
    if A.shape[0] not in (1, B.shape[0]) or A.shape[1] != B.shape[2] or A.shape[2] != d_in:
        raise ValueError(f"A {tuple(A.shape)} and B {tuple(B.shape)} do not fit each other and an input of {d_in}")
