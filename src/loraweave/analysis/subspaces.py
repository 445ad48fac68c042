"""How far two updates act in the same directions (LoRA paper, section 7.2, equation 4)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loraweave.analysis.spectra import Decomposition

MOST = 64  # directions compared at most
FIRST = 8  # the overlap of two runs in a layer is that of so many of their largest directions, or of all if fewer


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """φ(i, j) = ‖U_iᵀ V_j‖²_F / min(i, j) for the first i and j columns of two orthonormal bases.

    1 when the smaller subspace lies in the larger one, 0 when they are orthogonal; max(i, j) / d expected at random.

    Args:
        first: (d, I). second: (d, J).

    Returns:
        (I, J), φ at [i − 1, j − 1].
    """
    squares = (first.T @ second).square().cumsum(0).cumsum(1)
    return squares / _smaller(*squares.shape)


def overlaps_by_chance(first: int, second: int, d: int) -> Tensor:
    """(first, second): what `overlaps` is on average for random subspaces of d dimensions, i · j / d / min(i, j)."""
    i, j = torch.arange(1, first + 1), torch.arange(1, second + 1)
    return torch.outer(i, j).double() / d / _smaller(first, second)


def grid_ranks(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    return [rank for rank in (2**n for n in range(most.bit_length())) if rank < most] + [most]


@dataclass
class PairOverlap:
    """Overlap of two runs on one side of one type of module, added up layer by layer.

    Args:
        runs: their names. module: the type. side: "left", the outputs that are written to, or "right", the inputs read.
    """

    runs: tuple[str, str]
    module: str
    side: str
    by_layer: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Sums and not the layers' own grids: a large model has hundreds of layers, and runs come in many pairs.
        self._sums, self._chances, self._layers = torch.zeros(3, MOST, MOST, dtype=torch.float64)

    def add(self, layer: str, first: Decomposition, second: Decomposition) -> None:
        """Add one layer; one without an update on either side has no directions and is left out."""
        a, b = (getattr(one, self.side)[:, : min(one.rank, MOST)] for one in (first, second))
        if not a.shape[1] or not b.shape[1]:
            return
        grid = overlaps(a, b)
        chance = overlaps_by_chance(a.shape[1], b.shape[1], a.shape[0])
        k = min(*grid.shape, FIRST)
        self.by_layer.append(
            {"layer": layer, "rank": k, "overlap": float(grid[k - 1, k - 1]), "random": float(chance[k - 1, k - 1])}
        )
        for total, values in ((self._sums, grid), (self._chances, chance), (self._layers, torch.ones_like(grid))):
            total[: grid.shape[0], : grid.shape[1]] += values

    def as_dict(self) -> dict[str, Any]:
        """Grids at powers of two, each cell a mean over the layers that have so many directions on both sides."""
        ranks = grid_ranks(max(one["rank"] for one in self.by_layer))
        cells = torch.tensor(ranks) - 1
        layers = self._layers[cells][:, cells]
        return {
            "runs": list(self.runs),
            "module": self.module,
            "side": self.side,
            "ranks": ranks,
            "grid": (self._sums[cells][:, cells] / layers).tolist(),
            "random": (self._chances[cells][:, cells] / layers).tolist(),
            "by_layer": self.by_layer,
        }


def _smaller(first: int, second: int) -> Tensor:
    return torch.minimum(torch.arange(1, first + 1)[:, None], torch.arange(1, second + 1))
