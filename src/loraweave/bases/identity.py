"""Tell one base model from another by a short hash of its weights, so that an adapter is not put on the wrong one."""

import hashlib

import torch
from torch import nn

from loraweave.errors import UserError

_SAMPLES = 64  # values read from each tensor: enough to tell two fine-tunes apart, and next to no time


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and a sample of the values of the base's own parameters.

    The values are rounded to bfloat16 first, so that a float32 and a bfloat16 copy of one model agree. Adapters are
    left out: with or without one attached, the base has the same fingerprint (as long as the adapter is not merged).

    Args:
        model: a base model, or one with PEFT adapters attached; its weights must be there (not on the meta device).

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(_own_parameters(model).items()):
        values = parameter.detach().flatten()
        sample = values[:: max(1, values.numel() // _SAMPLES)][:_SAMPLES]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


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


def _own_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """The base's parameters under the names that they had before PEFT wrapped anything."""
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
