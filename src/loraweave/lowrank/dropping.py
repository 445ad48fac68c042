"""Dropout by naming what is dropped: on a CPU, a random number for every element costs more than the products do.

Few elements are dropped, and the gaps between them are geometric. So the gaps are drawn, a few per cent of the numbers,
and what is kept for the backward pass is a list of places, not a mask. The elements drop out independently with the
given probability, as in any dropout.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

SPARSE_UP_TO = 0.3  # above it a mask is no dearer on a CPU


def dropped(numel: int, p: float, device: torch.device) -> Tensor:
    """Which of `numel` elements are dropped, each with probability p: sorted places, or a mask (numel,), on `device`.

    Places where that is cheaper: on a CPU, for a small p, outside of `torch.compile`, which cannot know their number.
    """
    if device.type != "cpu" or p > SPARSE_UP_TO or torch.compiler.is_compiling():
        return torch.rand(numel, device=device, dtype=torch.float32) < p
    draws = int(numel * p + 6 * math.sqrt(numel * p)) + 10  # too few once in a thousand million times
    uniform = torch.empty(draws, device=device, dtype=torch.float32).uniform_()
    gaps = uniform.neg_().add_(1).log_().mul_(1 / math.log1p(-p))
    places = gaps.to(torch.int64).add_(1).cumsum(0).sub_(1)
    while places[-1] < numel:
        places = torch.cat([places, places[-1] + 1 + dropped(numel, p, device)])
    return places[: int(torch.searchsorted(places, numel))]


def dropout(x: Tensor, p: float) -> Tensor:
    """x, of any shape, with each element dropped with probability p and the others scaled up by 1 / (1 - p).

    By PyTorch's own operations.
    """
    return _zeroed(x, dropped(x.numel(), p, x.device)) / (1 - p)


def linear_after_dropout(x: Tensor, rows: Tensor, p: float) -> Tensor:
    """`linear(dropout(x, p), rows)`, with no copy of x's size but the one that is kept for the gradient of `rows`.

    Args:
        x: (…, d_in). rows: (R, d_in), of x's dtype, or of any under autocast.
        p: probability of being dropped.

    Returns:
        (…, R).
    """
    places = dropped(x.numel(), p, x.device)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, rows = x.to(dtype), rows.to(dtype)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return linear(_zeroed(x, places), rows) / (1 - p)
    return _LinearAfterDropout.apply(x, rows, places, 1 - p)


class _LinearAfterDropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, places: Tensor, keep: float) -> Tensor:
        kept = _zeroed(x, places)
        ctx.save_for_backward(kept, rows, places)
        ctx.keep = keep
        return linear(kept, rows).div_(keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        kept, rows, places = ctx.saved_tensors
        need_x, need_rows, *_ = ctx.needs_input_grad
        grad = grad / ctx.keep
        dx = _zero_(grad @ rows, places) if need_x else None
        drows = grad.reshape(-1, len(rows)).T @ kept.reshape(-1, rows.shape[1]) if need_rows else None
        return dx, drows, None, None


def _zeroed(x: Tensor, places: Tensor) -> Tensor:
    if places.dtype == torch.bool:
        return x.masked_fill(places.view(x.shape), 0.0)
    return x.reshape(-1).index_fill(0, places, 0.0).view(x.shape)


def _zero_(x: Tensor, places: Tensor) -> Tensor:
    """In place, for a contiguous x."""
    if places.dtype == torch.bool:
        return x.masked_fill_(places.view(x.shape), 0.0)
    x.view(-1).index_fill_(0, places, 0.0)
    return x


def mask(shape: tuple[int, ...], p: float, value: float, like: Tensor) -> Tensor:
    """A mask of 0, with probability p, and else `value`.

    Args:
        shape: of the mask.
        p: probability of a 0.
        value: a number, usually 1 / (1 - p).
        like: of any shape; the mask has its dtype and device.
    """
    full = like.new_full(shape, value)
    return _zero_(full, dropped(full.numel(), p, full.device))
