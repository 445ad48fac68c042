"""Dropout by naming what is dropped: on a CPU, a random number for every element costs more than the products do.

Few elements are dropped, and the gaps between them are geometric. So the gaps are drawn, a few per cent of the numbers,
and what is kept for the backward pass is a list of places, not a mask. The elements drop out independently with the
given probability, as in any dropout.
"""

import math

import torch
from torch import Tensor

SPARSE_UP_TO = 0.3  # above it a mask is no dearer on a CPU


def dropped(numel: int, p: float, device: torch.device) -> Tensor:
    """Which of `numel` elements are dropped, each with probability p: sorted places, or a bool mask (numel,).

    Places where that is cheaper: on a CPU, for a small p, outside of `torch.compile`, which cannot know their number.
    """
    if device.type != "cpu" or p > SPARSE_UP_TO or torch.compiler.is_compiling():
        return torch.rand(numel, device=device) < p
    draws = int(numel * p + 6 * math.sqrt(numel * p)) + 10  # too few once in a thousand million times
    gaps = torch.empty(draws).uniform_().neg_().add_(1).log_().mul_(1 / math.log1p(-p))
    places = gaps.to(torch.int64).add_(1).cumsum(0).sub_(1)
    while places[-1] < numel:
        places = torch.cat([places, places[-1] + 1 + dropped(numel, p, device)])
    return places[: int(torch.searchsorted(places, numel))]


def zeroed(x: Tensor, p: float) -> Tensor:
    """A copy of x with each element set to zero with probability p; the others are not scaled."""
    places = dropped(x.numel(), p, x.device)
    if places.dtype == torch.bool:
        return x.masked_fill(places.view(x.shape), 0.0)
    return x.reshape(-1).index_fill(0, places, 0.0).view(x.shape)


def mask(shape: tuple[int, ...], p: float, value: float, like: Tensor) -> Tensor:
    """A mask of 0, with probability p, and `value`; of the dtype and on the device of `like`."""
    full = like.new_full(shape, value)
    places = dropped(full.numel(), p, full.device)
    if places.dtype == torch.bool:
        return full.masked_fill_(places.view(shape), 0.0)
    full.view(-1).index_fill_(0, places, 0.0)
    return full
