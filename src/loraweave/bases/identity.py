"""Tell one base model from another by a short hash of its weights, so that an adapter is not put on the wrong one."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn

from loraweave.errors import UserError

_SAMPLES = 64  # values read from each tensor: enough to tell two fine-tunes apart, and next to no time
_KEPT = "weights_before_quantisation"
Sample = tuple[tuple[int, ...], Tensor]
"""A tensor's shape, and some of its values in bfloat16."""


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and a sample of the values of the base's own parameters.

    The values are rounded to bfloat16 first, so that a float32 and a bfloat16 copy of one model agree. Adapters are
    left out: with or without one attached, the base has the same fingerprint (as long as the adapter is not merged).
    Layers that were quantised while they were loaded count as their files have them (`keep_samples`): libraries and
    devices differ in how they round, and the unquantised model is the same base.

    Args:
        model: a base model, or one with PEFT adapters attached; its weights must be there (not on the meta device).

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    before: Mapping[str, Sample] = getattr(base, _KEPT, {})
    for name, parameter in sorted(own_parameters(model).items()):
        for part, (shape, values) in _samples(name, parameter, before):
            digest.update(f"{part}{shape}".encode())
            digest.update(values.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def keep_samples(model: nn.Module, place: str, where: Mapping[str, Any]) -> None:
    """Keep with a base that is quantised what its fingerprint takes of the files that it was read from.

    Args:
        model: just loaded.
        place: a folder, or a name on the hub whose files have been fetched.
        where: its revision there.
    """
    folder = Path(place)
    if not folder.is_dir():
        folder = Path(snapshot_download(place, local_files_only=True, allow_patterns=["*.safetensors"], **where))
    wanted = {name for name, parameter in model.named_parameters() if not _is_plain(parameter)}
    found: dict[str, Sample] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: _sampled(file.get_tensor(name)) for name in wanted.intersection(file.keys())}
    setattr(model, _KEPT, found)


def _samples(name: str, parameter: Tensor, before: Mapping[str, Sample]) -> list[tuple[str, Sample]]:
    """What counts of a parameter: of a packed one that no file has, the tensors that it is made of."""
    if name in before:
        return [(name, before[name])]
    if hasattr(parameter, "__tensor_flatten__"):
        parts = {part: getattr(parameter, part) for part in parameter.__tensor_flatten__()[0]}
        return [each for part, inner in sorted(parts.items()) for each in _samples(f"{name}.{part}", inner, {})]
    return [(name, _sampled(parameter))]


def _sampled(tensor: Tensor) -> Sample:
    values = tensor.detach().flatten()
    values = values[:: max(1, values.numel() // _SAMPLES)][:_SAMPLES]
    return tuple(tensor.shape), values.to("cpu", torch.bfloat16)


def _is_plain(parameter: Tensor) -> bool:
    return type(parameter) is nn.Parameter and parameter.is_floating_point()


def check_fingerprint(model: nn.Module, expected: str, adapter: str) -> None:
    """Refuse a base that is not the one that `adapter` (a name for the message) was trained on.

    Raises:
        UserError: the fingerprints differ.
    """
    found = fingerprint(model)
    if found != expected:
        raise UserError(
            f"{adapter}: this base (fingerprint {found}) is not the one the adapter was trained on ({expected})"
        )


def own_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """A base's parameters under the names that they had before PEFT wrapped anything; `model`: with adapters or not."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", "") if hasattr(model, "peft_config") else ""
    own = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if (prefix and any(part.startswith(prefix) for part in parts)) or "modules_to_save" in parts:
            continue
        if hasattr(model, "peft_config"):
            parts = [part for part in parts[2:] if part not in ("base_layer", "original_module")]
        own[".".join(parts)] = parameter
    return own
