"""How a layer holds the tensors of its adapters, and what it keeps of each adapter's configuration."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from loraweave.config import WeaveConfig


class AdapterTensors(nn.ParameterDict):
    """One tensor of the layer for each adapter, by the adapter's name.

    accelerate keeps offloaded weights elsewhere and brings a module's own ones in around its call; a dictionary is read
    and never called, so reading does it here.
    """

    def __getitem__(self, key: str) -> Any:
        hook = self.__dict__.get("_hf_hook")  # not getattr, which is slow for what a module lacks
        if hook is None:
            return super().__getitem__(key)
        hook.pre_forward(self)
        try:
            return super().__getitem__(key)
        finally:
            hook.post_forward(self, None)


@dataclass(frozen=True)
class Knobs:
    """What a layer needs to know of its adapter's configuration."""

    config: WeaveConfig
    r: int
    scaling: float
    tensors: tuple[str, ...]  # the names of those that it has
