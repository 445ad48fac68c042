"""Products in which every row has a matrix of its own among N: what one head per task needs.

The cost follows the rows and the heads that are there, never N: one product where all rows share a head, one batched
product where every sequence has one, and otherwise a product for each head that any row has. Few rows without
gradients, as where a server writes a token for each of its requests, take one product with those heads side by side
instead: to begin a product costs more then than its multiplications.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

AT_ONCE = {"cpu": 2**20}
_AT_ONCE_ELSEWHERE = 2**26
"""By device, the multiplications that one more product is worth."""


@dataclass(frozen=True)
class HeadRows:
    """Which head each of T rows has.

    Attributes:
        heads: (1,) for all rows; (S,), one for each of S stretches of T / S rows; or (T,).
        count: T.
    """

    heads: Tensor
    count: int

    @property
    def stretches(self) -> int:
        """S where rows come in stretches of one head each; 0 where every row has its own."""
        return len(self.heads) if len(self.heads) < self.count or self.count == 1 else 0

    @cached_property
    def segments(self) -> tuple[Tensor, list[tuple[int, int]]]:
        """(T,) the places of the rows sorted by head; and (head, number of its rows) for each that any row has."""
        heads, counts = self.heads.unique(return_counts=True)
        return self.heads.argsort(stable=True), list(zip(heads.tolist(), counts.tolist(), strict=True))

    @cached_property
    def apart(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(P,) the heads that any row has; and each row's number and its head's place among them, to index (T, P, …)
        with."""
        heads, places = self.heads.unique(return_inverse=True)
        return heads, (torch.arange(self.count, device=heads.device), places)


def down(x: Tensor, A: Tensor, rows: HeadRows) -> Tensor:
    """Each row of x through its own head's A.

    Args:
        x: (T, d_in).
        A: (N, r, d_in).
        rows: the head of each.

    Returns:
        (T, r).
    """
    if rows.stretches == 1:
        return linear(x, A.index_select(0, rows.heads)[0])
    if rows.stretches:
        return torch.bmm(x.unflatten(0, (rows.stretches, -1)), A.index_select(0, rows.heads).mT).flatten(0, 1)
    if few(rows, A):
        heads, each = rows.apart
        chosen = A.index_select(0, heads)
        return linear(x, chosen.flatten(0, 1)).view(len(x), *chosen.shape[:2])[each]
    order, present = rows.segments
    parts = x.index_select(0, order).split([count for _, count in present])
    products = [linear(part, A[head]) for part, (head, _) in zip(parts, present, strict=True)]
    return torch.cat(products).index_select(0, order.argsort())


def add_up(
    y: Tensor,
    u: Tensor,
    B: Tensor,
    rows: HeadRows,
    scaling: float,
    in_place: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """y + s · B_h u, each row with its own head's B.

    Args:
        y: (T, d_out); may be written into if `in_place`.
        u: (T, r), in y's dtype.
        B: (N, d_out, r); the heads that are there are cast to y's dtype.
        rows: the head of each.
        scaling: s.
        mask: (N, d_out, r) which entries of B count; None for all.

    Returns:
        (T, d_out).
    """

    def of(heads: Tensor | int) -> Tensor:
        chosen = _chosen(B, heads)
        return (chosen if mask is None else chosen * _chosen(mask, heads)).to(y.dtype)

    if rows.stretches == 1:
        up = of(rows.heads)[0].mT
        return y.addmm_(u, up, alpha=scaling) if in_place else torch.addmm(y, u, up, alpha=scaling)
    if rows.stretches:
        shape = (rows.stretches, -1)
        up = of(rows.heads).mT
        return torch.baddbmm(y.unflatten(0, shape), u.unflatten(0, shape), up, alpha=scaling).flatten(0, 1)
    if few(rows, B):
        heads, each = rows.apart
        wide = u.new_zeros(len(u), len(heads), u.shape[1])
        wide[each] = u
        return (y if in_place else y.clone()).addmm_(wide.flatten(1), of(heads).mT.flatten(0, 1), alpha=scaling)
    order, present = rows.segments
    places = order.split([count for _, count in present])
    y = y if in_place else y.clone()
    for part, (head, _) in zip(places, present, strict=True):
        y.index_add_(0, part, linear(u.index_select(0, part), of(head)), alpha=scaling)
    return y


def few(rows: HeadRows, table: Tensor) -> bool:
    """Whether one product of every row with every head that is there costs less than one for each head.

    Args:
        rows: the head of each.
        table: (N, …), a matrix for each head.

    Returns:
        False wherever gradients are taken.
    """
    least = AT_ONCE.get(table.device.type, _AT_ONCE_ELSEWHERE)
    return not torch.is_grad_enabled() and rows.count * table[0].numel() <= least


def _chosen(table: Tensor, heads: Tensor | int) -> Tensor:
    return table[heads] if isinstance(heads, int) else table.index_select(0, heads)
