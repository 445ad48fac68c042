"""Plain updates of different ranks, each for rows of its own: what several experts in one batch need.

The cost follows the updates that are there and their own ranks. Many rows of each: a pair of products for each update.
Few rows: all that are there stacked into one pair of products, in which every row hears its own alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

Pair = tuple[Tensor, Tensor]
"""A (r, d_in) and B (d_out, r): the update is B A x."""


@dataclass(frozen=True)
class Stack:
    """Several updates side by side.

    Attributes:
        A: (R, d_in), R the sum of their ranks. B: (d_out, R).
        owner: (R,) the number of the update that each rank belongs to.
    """

    A: Tensor
    B: Tensor
    owner: Tensor


def stacked(pairs: Mapping[int, Pair]) -> Stack:
    """Updates side by side; `pairs`: each, A (r, d_in) and B (d_out, r), by its number."""
    numbers = [number for number, (A, _) in pairs.items() for _ in range(len(A))]
    A, B = (torch.cat(each, dim) for dim, each in enumerate(zip(*pairs.values(), strict=True)))
    return Stack(A, B, torch.tensor(numbers, device=A.device))


def add_stacked(y: Tensor, x: Tensor, numbers: Tensor, stack: Stack, in_place: bool = False) -> Tensor:
    """y + B_n A_n x, for every row its own update n, or none.

    Args:
        y: (T, d_out), in A's dtype; may be written into if `in_place`.
        x: (T, d_in), likewise.
        numbers: (T,) of each row's update; one that is not in the stack leaves y as it is.
        stack: of the updates.

    Returns:
        (T, d_out).
    """
    u = linear(x, stack.A)
    u = u.masked_fill(numbers[:, None] != stack.owner, 0)  # not times 0: another's overflow is none of a row's business
    return y.addmm_(u, stack.B.T) if in_place else torch.addmm(y, u, stack.B.T)


def add_each(y: Tensor, x: Tensor, pairs: Sequence[tuple[Pair, Tensor]], in_place: bool = False) -> Tensor:
    """y + B A x for each update on the rows of its own.

    Args:
        y: (T, d_out), in A's dtype; may be written into if `in_place`.
        x: (T, d_in), likewise.
        pairs: each update with (n,) the numbers of its rows, no row twice.

    Returns:
        (T, d_out).
    """
    if len(pairs) == 1 and len(pairs[0][1]) == len(y):
        ((A, B), _) = pairs[0]
        return y.addmm_(linear(x, A), B.T) if in_place else torch.addmm(y, linear(x, A), B.T)
    y = y if in_place else y.clone()
    for (A, B), rows in pairs:
        y.index_add_(0, rows, linear(linear(x.index_select(0, rows), A), B))
    return y
