"""`peft.utils.hotswap.hotswap_adapter` for Weave adapters: new values in the same tensors, for compiled models too.

PEFT asks a table which settings two adapters must share; ours is added to it. Its function that copies the tensors
looks for LoRA's modules and is wrapped. Both adapters have the same shapes here, so nothing needs
`prepare_model_for_compiled_hotswap`, which pads LoRA ranks.
"""

from dataclasses import fields
from functools import wraps
from operator import attrgetter
from typing import Any

import torch
from peft.config import PeftConfig
from peft.utils import hotswap
from torch import Tensor, nn

from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.foreign import private_or_warn
from loraweave.peft_type import LORAWEAVE
from loraweave.tuner.layer import WeaveLinear

COPY_TENSORS = "hotswap_adapter_from_state_dict"
KEYS = "CONFIG_KEYS_TO_CHECK"
# May differ between two adapters of the same shapes: the names of layers show in the tensors, the rest has no effect.
FREE = {"method", "init_weights", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"} | {
    "beside_blocks"
}


@torch.no_grad()
def copy_tensors(model: nn.Module, state_dict: dict[str, Tensor], adapter_name: str) -> None:
    """Give the adapter the values of `state_dict`; layers that are not in it are set to no update.

    Raises:
        UserError: the adapter is merged, or has not all of the tensors, or not in these shapes; nothing is changed.
    """
    if any(adapter_name in m.merged_adapters for m in model.modules() if isinstance(m, WeaveLinear)):
        raise UserError(f"adapter {adapter_name!r} is merged: call unmerge_adapter() before swapping it")
    present = {key.removeprefix("_orig_mod.") for key in model.state_dict()}  # torch.compile adds the prefix
    own = {key for key in present if ".weave_" in key and key.endswith(f".{adapter_name}")}
    instead = "use load_adapter under another name, then delete_adapter"
    if surplus := sorted(state_dict.keys() - own):
        raise UserError(f"adapter {adapter_name!r} has no {surplus[0]} to swap ({len(surplus)} such); {instead}")
    layers = {_layer(key) for key in state_dict}
    if lacking := sorted(key for key in own - state_dict.keys() if _layer(key) in layers):
        raise UserError(f"{lacking[0]} is missing in what is to take its place ({len(lacking)} such): it is not whole")
    targets = {key: attrgetter(key)(model) for key in own}
    for key, value in state_dict.items():
        if targets[key].shape != value.shape:
            raise UserError(
                f"{key} is {tuple(targets[key].shape)} and cannot take {tuple(value.shape)} in its place; {instead}"
            )
    for key, target in targets.items():
        if key in state_dict:
            target.copy_(state_dict[key])
        else:
            target.zero_()


def _layer(key: str) -> str:
    return key.partition(".weave_")[0]


def register() -> None:
    """Teach PEFT's hot-swapping about Weave adapters; warns where PEFT has not the table or the function."""
    original = private_or_warn(hotswap, COPY_TENSORS, "swapping adapters in place")
    keys = private_or_warn(hotswap, KEYS, "swapping adapters in place")
    if original is None or keys is None:
        return
    common = {f.name for f in fields(PeftConfig)}
    keys[LORAWEAVE] = [f.name for f in fields(WeaveConfig) if f.name not in common | FREE]

    @wraps(original)
    def copy(
        model: nn.Module, state_dict: dict[str, Tensor], adapter_name: str, config: PeftConfig, **options: Any
    ) -> None:
        if config.peft_type != LORAWEAVE:
            return original(model, state_dict, adapter_name, config, **options)
        return copy_tensors(model, state_dict, adapter_name)

    setattr(hotswap, COPY_TENSORS, copy)
