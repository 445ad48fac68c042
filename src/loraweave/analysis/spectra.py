"""The singular values of an update ΔW, from its low-rank factors alone, and what they say of its spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loraweave.adapters.file import AdapterFile

TOP = (1, 4, 8)
STORED = 256  # singular values kept per spectrum; a whole weight has thousands
_NEGLIGIBLE = 1e-6  # of the largest: below it a direction is rounding


@dataclass(frozen=True)
class Decomposition:
    """ΔW = left · diag(values) · rightᵀ, in float64.

    Args:
        values: (R,) singular values, falling.
        left: (d_out, k) and right: (d_in, k), the first k ≤ R singular vectors.
        scale: how large ΔW could be by its factors; far below it, ΔW is what rounding left of a cancelled start.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    scale: float

    @property
    def is_zero(self) -> bool:
        """Whether there is no update, or only what rounding left."""
        return self.values.numel() == 0 or float(self.values[0]) <= _NEGLIGIBLE * self.scale

    @property
    def rank(self) -> int:
        """How many directions the update has, as far as singular vectors are kept."""
        if self.is_zero:
            return 0
        return min(int((self.values > _NEGLIGIBLE * self.values[0]).sum()), self.left.shape[1])


def decompose(lora_A: Tensor, lora_B: Tensor) -> Decomposition:
    """The singular value decomposition of lora_B @ lora_A without ever forming it.

    With lora_B = Q R and lora_Aᵀ = P S (QR each), the singular values are those of the small matrix R Sᵀ, and Q and P
    carry its singular vectors over.

    Args:
        lora_A: (R, d_in). lora_B: (d_out, R), scaling included.
    """
    basis_out, core_out = torch.linalg.qr(lora_B.double())
    basis_in, core_in = torch.linalg.qr(lora_A.double().T)
    left, values, right = torch.linalg.svd(core_out @ core_in.T, full_matrices=False)
    scale = float(core_out.norm() * core_in.norm())
    return Decomposition(values, basis_out @ left, basis_in @ right.T, scale)


def decomposed(
    adapter: AdapterFile, layer: str, usage: Mapping[str, Tensor]
) -> tuple[Decomposition, list[tuple[str | None, Decomposition]]]:
    """One layer's update, its mean over tasks where they are told apart; and the update of each such task.

    Args:
        adapter: of whichever method.
        layer: its path.
        usage: by layer, (K, N): the mean weight of each head on each task's tokens. Where heads are weighed by x, the
            update is taken at the mean of these over tasks, or at uniform weights in a layer that is not in it.
    """
    formula = adapter.formula(layer)
    weights = None
    if formula.depends_on_input:
        used = usage.get(layer)
        weights = (
            formula.B.new_full((formula.num_heads,), 1 / formula.num_heads) if used is None else used.double().mean(0)
        )
    tasks = [(task, decompose(*formula.factors(number, weights))) for number, task in enumerate(adapter.tasks)]
    return decompose(*formula.mean_factors(weights)), [*tasks]


def decompose_dense(change: Tensor, vectors: int) -> Decomposition:
    """The same for a change that has no factors, through the eigenvalues of its Gram matrix on the smaller side.

    Squaring costs digits: singular values below some 1e-7 of the largest are not told from zero.

    Args:
        change: (d_out, d_in). vectors: how many singular vectors to keep.
    """
    change = change.double()
    wide = change.shape[1] > change.shape[0]
    gram = change @ change.T if wide else change.T @ change
    squares, basis = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    basis = basis.flip(1)[:, :vectors]
    other = (change.T if wide else change) @ basis / values[:vectors].clamp(min=torch.finfo(values.dtype).tiny)
    return Decomposition(values, *((basis, other) if wide else (other, basis)), scale=0.0)


def spectrum(values: Tensor) -> dict[str, Any]:
    """What singular values say of an update's spread.

    With p_i = s_i² / Σ s², s_i the singular values, the share of direction i in ‖ΔW‖²_F: entropy −Σ p ln p in nats;
    effective_rank, its exponential, which is k for k equal directions; top1, top4 and top8, the shares of the largest;
    norm, ‖ΔW‖_F. All are zero where there is no update. directions is R, the largest of which are kept.

    Args:
        values: (R,) singular values, falling.
    """
    squares = values.double().square()
    total = float(squares.sum())
    shares = squares / total if total > 0 else torch.zeros_like(squares)
    entropy = float(torch.special.entr(shares).sum())
    return {
        "directions": len(values),
        "singular_values": values[:STORED].tolist(),
        "entropy": entropy,
        "effective_rank": math.exp(entropy) if total > 0 else 0.0,
        **{f"top{k}": float(shares[:k].sum()) for k in TOP},
        "norm": math.sqrt(total),
    }


def summarise(spectra: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over layers and tasks that have an update, per run and type of module, and per run over all ("all"); zeros
    where none has."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in spectra:
        groups.setdefault((one["run"], one["module"]), []).append(one)
    for one in spectra:
        groups.setdefault((one["run"], "all"), []).append(one)
    groups = {key: [one for one in group if one["norm"]] or group for key, group in groups.items()}
    averaged = ("entropy", "effective_rank", *(f"top{k}" for k in TOP))
    return [
        {
            "run": run,
            "module": module,
            **{key: sum(one[key] for one in group) / len(group) for key in averaged},
            "layers": len({one["layer"] for one in group}),
        }
        for (run, module), group in groups.items()
    ]
