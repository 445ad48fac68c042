"""How far apart tasks are in rank space, and how unevenly heads are used: the auxiliary losses as functions of sums.

Torch only. Everything is differentiable, and small: nothing here has a token dimension.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A Gaussian kernel for each bandwidth, nineteen from 1e-6 to 1e6, so that some of them suit any scale of A x.
BANDWIDTHS = tuple(10.0 ** (exponent * 12 / 18 - 6) for exponent in range(19))
PAIRS = 2**22  # numbers of the differences of points that are held at a time


def symmetric_kl(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Mean over task pairs of ½ (KL(p‖q) + KL(q‖p)) of the tasks' diagonal Gaussians (Align-LoRA, 2508.05078).

    Args:
        counts: (K,) tokens of each task; tasks with fewer than two are left out.
        sums: (…, K, D) of A x, added up over those tokens.
        squares: (…, K, D) of its elementwise square, likewise.

    Returns:
        (…) in nats, the sum over D of each pair's divergence; 0 where fewer than two tasks are left.
    """
    there = counts > 1
    n = counts.clamp(min=1).to(sums.dtype).unsqueeze(-1)
    mean = sums / n
    # Rounding and constant channels must not make a variance of zero, whatever the scale of A x.
    variance = (squares / n - mean.square()).clamp(min=0) + 1e-6 * (squares / n) + 1e-12
    gap = (mean.unsqueeze(-2) - mean.unsqueeze(-3)).square()  # (…, K, K, D)
    ratio = variance.unsqueeze(-2) / variance.unsqueeze(-3)
    # ½ (KL + KL) of one channel: the logarithms cancel.
    inverse = 1 / variance
    pairs = 0.25 * (ratio + 1 / ratio - 2 + gap * (inverse.unsqueeze(-2) + inverse.unsqueeze(-3)))
    return _mean_over_pairs(pairs.sum(-1), there)


def mmd(samples: Tensor, weights: Tensor, bandwidths: tuple[float, ...] = BANDWIDTHS) -> Tensor:
    """Mean over task pairs of the squared maximum mean discrepancy, with a sum of Gaussian kernels (Align-LoRA's other
    distance, 2508.05078).

    k(a, b) = Σ_w exp(−‖a − b‖² / 2w) over bandwidths w; MMD²(p, q) = E k(p, p') + E k(q, q') − 2 E k(p, q).

    Args:
        samples: (K, S, D) points of each task.
        weights: (K, S) of the points, at least 0; a task whose weights are all 0 is left out.
        bandwidths: of the kernels, in the unit of A x squared.

    Returns:
        () at least 0; 0 where fewer than two tasks are left.
    """
    num_tasks, size, _ = samples.shape
    there = (weights.sum(-1) > 0).to(samples.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    # The mean over pairs of E k(p, p') + E k(q, q') − 2 E k(p, q) takes each task's own E k once for each other task.
    others = there.sum() - 1
    factors = (torch.eye(num_tasks, device=samples.device, dtype=samples.dtype) * (others + 1) - 1) * torch.outer(
        there, there
    )
    factors = factors / ((others + 1) * others / 2).clamp(min=1) * (others > 0)
    task_of = torch.arange(num_tasks, device=samples.device).repeat_interleave(size)
    return _KernelSum.apply(samples.flatten(0, 1), weights.flatten().to(samples.dtype), factors, task_of, bandwidths)


class _KernelSum(torch.autograd.Function):
    """Σ_ab f_ab w_a w_b k(a, b) over all pairs of points, a few rows of the pairs at a time.

    The gradient is worked out on the way, so that of all pairs nothing is kept: as many numbers as there are in the
    points, where the kernels of 20 tasks in 224 layers would be 40 GB.
    """

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, weights: Tensor, factors: Tensor, task_of: Tensor, bandwidths: tuple[float, ...]
    ) -> Tensor:
        """points (M, D), weights (M,), factors (K, K) symmetric, task_of (M,) -> ()."""
        total, gradient = points.new_zeros(()), torch.empty_like(points)
        at_once = max(1, PAIRS // max(1, points.numel()))
        for part in torch.arange(len(points), device=points.device).split(at_once):
            gap = points[part, None] - points  # (part, M, D)
            squared = gap.square().sum(-1)
            scale = weights[part, None] * weights * factors[task_of[part]][:, task_of]
            kernel, slope = torch.zeros_like(squared), torch.zeros_like(squared)
            for bandwidth in bandwidths:
                value = torch.exp(squared / (-2 * bandwidth))
                kernel += value
                slope -= value / (2 * bandwidth)
            total = total + (scale * kernel).sum()
            # A point is one of a pair twice over, and the square has a 2 of its own.
            gradient[part] = 4 * ((scale * slope)[..., None] * gap).sum(1)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return above * gradient, None, None, None, None


def imbalance(weights: Tensor) -> Tensor:
    """The squared coefficient of variation of the heads' total weight (importance loss, 1701.06538, eq. 7).

    Args:
        weights: (…, N) weight of each head, added up over tokens.

    Returns:
        (…) 0 when all heads weigh alike, N − 1 when one head has everything.
    """
    share = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return weights.shape[-1] * share.square().sum(-1) - 1


def spectral_overlap(B: Tensor) -> Tensor:
    """How much the directions of the heads overlap, those of small singular values above all (mtLoRA, 2603.01526).

    Σ_{i<j} ‖W_i B_iᵀ B_j W_j‖²_F with W_h = V_h diag(exp(−s_h / mean s_h)) V_hᵀ of B_h = U_h diag(s_h) V_hᵀ: so
    weighed, large directions may be shared and small ones are pushed apart. The weights are held fixed, as in the
    paper; the formula is its text's, not its code's.

    Args:
        B: (N, d_out, r).

    Returns:
        (); 0 for one head, or while all B are 0.
    """
    heads, _, r = B.shape
    columns = B.transpose(0, 1).flatten(1)  # (d_out, N·r)
    gram = (columns.T @ columns).unflatten(0, (heads, r)).unflatten(2, (heads, r)).transpose(1, 2)  # (N, N, r, r)
    with torch.no_grad():
        own = torch.linalg.eigh(gram.diagonal(dim1=0, dim2=1).movedim(-1, 0))
        sizes = own.eigenvalues.clamp(min=0).sqrt()
        weights = torch.exp(-sizes / sizes.mean(-1, keepdim=True).clamp(min=torch.finfo(B.dtype).tiny))
        W = (own.eigenvectors * weights.unsqueeze(-2)) @ own.eigenvectors.mT  # (N, r, r)
    pairs = (W.unsqueeze(1) @ gram @ W.unsqueeze(0)).square().sum((-1, -2))
    return pairs.triu(diagonal=1).sum()


def localized_imbalance(weights: Tensor, alike: Tensor, delta: float) -> Tensor:
    """`imbalance` where a head counts a token of its own group 1 + δ times and any other 1 − δ times (LoRAMoE,
    2312.09979).

    Args:
        weights: (…, K, N) weight of each head, added up over each task's tokens.
        alike: (K, N) whether task and head are of one group.
        delta: δ, from 0 to 1.

    Returns:
        (…).
    """
    factors = torch.where(alike, 1 + delta, 1 - delta).to(weights.dtype)
    return imbalance((weights * factors).sum(-2))


def _mean_over_pairs(pairs: Tensor, there: Tensor) -> Tensor:
    """pairs (…, K, K), there (K,): the mean over i < j of the tasks that are there; 0 without such a pair."""
    chosen = torch.triu(there.unsqueeze(0) & there.unsqueeze(1), diagonal=1)
    return torch.where(chosen, pairs, 0).sum((-1, -2)) / chosen.sum().clamp(min=1)
