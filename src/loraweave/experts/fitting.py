"""An expert beside the base that it is for: whether its layers fit, and its update as a pair of factors for each."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loraweave.adapters.file import AdapterFile
from loraweave.errors import UserError
from loraweave.runs.attaching import check_fits

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""By layer, A (r, d_in) and B (d_out, r) in float32, the scaling in B: the layer's update is B A."""


@dataclass(frozen=True)
class Fitting:
    """A base without its weights, to hold experts against.

    Attributes:
        skeleton: the same architecture on the meta device.
    """

    skeleton: PreTrainedModel

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Fitting":
        """For a base as it was loaded: `model`, which is not touched."""
        with torch.device("meta"):
            return cls(type(model)(copy.deepcopy(model.config)))

    def pairs(self, adapter: AdapterFile) -> Pairs:
        """The update of a plain LoRA, after it was found to fit.

        Args:
            adapter: the LoRA's files.

        Returns:
            By layer, A (r, d_in) and B (d_out, r) in float32, the scaling in B.

        Raises:
            UserError: its layers are not those of the base that its configuration names, or it is damaged.
        """
        with torch.device("meta"):
            check_fits(self.skeleton, adapter)
        pairs = {}
        for layer in adapter.sizes:
            down, up = adapter.formula(layer).factors()
            pairs[layer] = down.float(), up.float()
        return pairs


def linear_layers(model: nn.Module, paths: Sequence[str], whose: str) -> dict[str, nn.Module]:
    """The modules at some paths of a base, each of which is there, and at no other path too.

    Args:
        whose: experts, for the message.

    Raises:
        UserError: there is none, or it is used under several paths, so that an update would reach them all.
    """
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(path)
    found = {}
    for path in paths:
        try:
            found[path] = model.get_submodule(path)
        except AttributeError:
            raise UserError(f"{whose}: the base has no layer {path}") from None
        if len(there := places[id(found[path])]) > 1:
            others = ", ".join(other for other in there if other != path)
            raise UserError(f"{whose}: layer {path} is also {others}, which an update of it would reach as well")
    return found
