"""The two products around a layer's mix in rank space: all that reads x as one, all that writes y as another."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from loraweave.lowrank import dropping
from loraweave.lowrank.formula import Formula


def read(formula: Formula, x: Tensor, leading: torch.Size, drop: float) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Everything that reads x, in as few products as can be: A D(x) (*leading, a, r); the router's logits
    (*leading, G·N) and A₀ x (*leading, r) where the method has them."""
    gate, anchor_A = formula.gate, formula.anchor and formula.anchor[0]
    router = None if gate.reads_rank else gate.router
    plain = [rows for rows in (router, anchor_A) if rows is not None]  # read x without dropout
    all_A, rest = formula.A.flatten(0, 1), []
    if drop:
        u = dropping.linear_after_dropout(x, all_A, drop).view(*leading, -1)
        if plain:
            rest = list(linear(x, torch.cat(plain)).view(*leading, -1).split([len(rows) for rows in plain], dim=-1))
    elif plain:
        sizes = [len(all_A), *map(len, plain)]
        u, *rest = linear(x, torch.cat([all_A, *plain])).view(*leading, -1).split(sizes, dim=-1)
    else:
        u = linear(x, all_A).view(*leading, -1)
    logits = rest.pop(0) if router is not None else None
    if gate.reads_rank and gate.router is not None:
        logits = linear(u, gate.router)
    return u.unflatten(-1, formula.A.shape[:2]), logits, rest.pop() if rest else None


def add_up(y: Tensor, u: Tensor, up: Tensor, scaling: float, groups: int, in_place: bool) -> Tensor:
    """y (…, d_out) + s · u (…, R) @ up (R, d_out), in y's dtype; `in_place` for a y of two dimensions. With several
    groups of output channels u is (…, G, R), one for each."""
    u = u.reshape(-1, u.shape[-1]) if groups == 1 else u.reshape(-1, *u.shape[-2:])
    if torch.is_autocast_enabled(y.device.type):
        u, up = u.to(y.dtype), up.to(y.dtype)
    if groups > 1:
        blocks = zip(u.unbind(1), up.tensor_split(groups, dim=1), strict=True)
        return y + (torch.cat([each @ block for each, block in blocks], dim=1) * scaling).view(y.shape).to(y.dtype)
    if not u.dtype == up.dtype == y.dtype:
        return y + ((u * scaling) @ up).view(y.shape).to(y.dtype)
    if in_place:
        return y.addmm_(u, up, alpha=scaling)
    return torch.addmm(y.reshape(-1, y.shape[-1]), u, up, alpha=scaling).view(y.shape)
