"""How alike the heads of an adapter are (R-LoRA and HydraLoRA, the papers' figures of head similarity)."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from loraweave.adapters.tensors import first_values
from loraweave.analysis.subjects import AnalysedRun
from loraweave.bases import empty_base
from loraweave.errors import UserError
from loraweave.runs.folder import naming_base


def similarity(heads: Tensor) -> Tensor:
    """Cosines between heads taken as vectors. (N, …) -> (N, N); 0 to a head that is zero."""
    flat = heads.flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return unit @ unit.T


def describe(heads: Tensor) -> dict[str, Any]:
    """Similarity matrix, its mean off the diagonal, and the heads' Frobenius norms.

    Args:
        heads: (N, …), N ≥ 2.
    """
    cosines, count = similarity(heads), len(heads)
    return {
        "similarity": cosines.tolist(),
        "mean_similarity": float((cosines.sum() - cosines.trace()) / (count * (count - 1))),
        "norms": heads.flatten(1).norm(dim=1).tolist(),
    }


def layer_heads(tensors: Mapping[str, Tensor], since_start: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The entries of one layer: of B, and of A where every head has its own.

    Args:
        tensors: of the layer, as `AdapterFile.tensors` gives them; A (a, r, d_in) and B (N, d_out, r), which heads that
            share one have times the matrix of their own, among them.
        since_start: the same description of how B has changed, for a random start that is known.
    """
    entries = [{"matrix": "B", **describe(tensors["B"]), "since_start": since_start}]
    if len(tensors["A"]) > 1:
        entries.append({"matrix": "A", **describe(tensors["A"]), "since_start": None})
    return entries


def random_starts(run: AnalysedRun) -> Iterator[tuple[str, Tensor]]:
    """Every layer's B (N, d_out, r) before the first step, drawn again from the run's seed, for a random start.

    The adapter's frozen anchor is the mean of that B over heads: what is drawn is compared with it, so that another
    version's draws, or another order of layers, are not taken for the start.

    Yields:
        Layer and B; nothing where the method does not start from random heads.

    Raises:
        UserError: the seed is not known, the base's architecture is not at hand, or the draws do not fit the anchor.
    """
    config, update = run.weave, run.adapter
    if config is None or update is None or config.start != "random_anchored":
        return
    if run.config is None or run.base is None:
        raise UserError(f"{run.name}: the seed of its random start is not known")
    with naming_base(run.folder, run.base_given):
        layers = [name for name, _ in empty_base(run.config.base).named_modules() if name in update.sizes]
    state = torch.Generator().manual_seed(run.config.seed).get_state()
    for layer in layers:
        tensors, size = update.tensors(layer), update.sizes[layer]
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(state)
            drawn = first_values(config, layer, size.d_in, size.d_out)
            state = torch.get_rng_state()
        if not torch.allclose(drawn["weave_anchor_B"].double(), tensors["anchor_B"], rtol=1e-2, atol=1e-6):
            raise UserError(f"{run.name}: its random start cannot be drawn again from the seed ({layer} differs)")
        yield layer, drawn["weave_B"].double()


def head_map(run: AnalysedRun, modules: Mapping[str, str]) -> list[dict[str, Any]]:
    """All heads in the plane: the first two principal components of B_h, scaled to norm 1, per type of module.

    Heads of different types have different sizes and are no points of one space.

    Args:
        run: with several heads.
        modules: the type of each layer.

    Returns:
        An entry per type that has at least three heads: module, points, and the share of variance on either axis.
        Layers with one head alone are left out.
    """
    update = run.adapter
    assert update is not None
    found = []
    shaped = sorted(update.sizes, key=lambda layer: modules[layer])
    for module, group in groupby(shaped, key=lambda layer: modules[layer]):
        there = {layer: update.formula(layer).B.flatten(1).float() for layer in group}
        layers = [layer for layer, B in there.items() if len(B) > 1]
        stacked = [there[layer] for layer in layers]
        if len({one.shape[1] for one in stacked}) > 1 or sum(map(len, stacked)) < 3:
            continue  # a rank_pattern gave layers of one type different ranks
        heads = torch.nn.functional.normalize(torch.cat(stacked), dim=1)
        points, explained = _principal(heads)
        labels = [(layer, head) for layer, one in zip(layers, stacked, strict=True) for head in range(len(one))]
        found.append(
            {
                "run": run.name,
                "module": module,
                "points": [
                    {"layer": layer, "module": module, "head": head, "x": x, "y": y}
                    for (layer, head), (x, y) in zip(labels, points.tolist(), strict=True)
                ],
                "explained": explained,
            }
        )
    return found


def _principal(rows: Tensor) -> tuple[Tensor, list[float]]:
    """(n, 2) coordinates on the first two principal components, and their shares of the variance."""
    gram = (rows - rows.mean(0)) @ (rows - rows.mean(0)).T
    values, vectors = torch.linalg.eigh(gram.double())
    first, total = values.flip(0)[:2].clamp(min=0), float(values.clamp(min=0).sum())
    points = vectors.flip(1)[:, :2] * first.sqrt()
    return points, [float(value) / total if total > 0 else 0.0 for value in first]
