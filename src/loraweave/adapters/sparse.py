"""Start an adapter anew with most of its B held at zero: what LoRI (2504.07448) does between its two trainings."""

from pathlib import Path

import torch
from torch import Tensor

from loraweave.adapters.file import AdapterFile
from loraweave.adapters.tensors import MASK
from loraweave.adapters.write import write_adapter
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.lowrank.starts import largest


def sparsify(adapter: str | Path, density: float, output: str | Path) -> Path:
    """Write an adapter that starts at B = 0 and trains only the entries of B that are largest in a trained one.

    For each head, the entries of all layers are ranked together by their size (LoRI, 2504.07448). Everything else is
    taken over as it is; the mask is a frozen boolean tensor of the new adapter.

    Args:
        adapter: the folder of a trained adapter of this package.
        density: the share of each head's B that is trained, above 0 and below 1; 0.1 in the paper.
        output: the folder to write; not there yet, or empty.

    Returns:
        The folder.

    Raises:
        UserError: no such adapter, one whose B does not start at zero or is shared by its heads, a share out of range,
            or a folder with something in it.
    """
    source = AdapterFile(Path(adapter))
    source.check_values()
    config = source.config
    if not isinstance(config, WeaveConfig) or config.start != "zero_up" or config.up == "shared":
        raise UserError(f"{adapter}: only an adapter with a B per head that started at zero can be sparse")
    if isinstance(density, bool) or not 0 < density < 1:
        raise UserError(f"density must be above 0 and below 1, got {density!r}")
    if len({source.tensors(layer)["B"].shape[0] for layer in source.sizes}) > 1:
        raise UserError(f"{adapter}: its layers have different numbers of heads, which cannot be ranked together")
    sizes = {layer: source.tensors(layer)["B"].abs() for layer in source.sizes}
    kept = largest(torch.cat([B.flatten(1) for B in sizes.values()], dim=1), density)
    masks = dict(zip(sizes, kept.split([B[0].numel() for B in sizes.values()], dim=1), strict=True))
    tensors: dict[str, Tensor] = {name: source.tensor(name) for name in source.names}
    for layer, mask in masks.items():
        up = source.key(layer, "weave_B")
        tensors[up.removesuffix("weave_B") + MASK] = mask.view(tensors[up].shape)
        tensors[up] = torch.zeros_like(tensors[up])
    config.up_density = density
    return write_adapter(Path(output), config, tensors, source.folder)
