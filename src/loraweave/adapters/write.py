"""Write an adapter's folder, whole or not at all, as PEFT's `save_pretrained` leaves it."""

from collections.abc import Mapping
from pathlib import Path

from peft import PeftConfig
from safetensors.torch import save_file
from torch import Tensor

from loraweave.adapters.file import WEIGHTS
from loraweave.errors import UserError
from loraweave.files import written_whole


def write_adapter(folder: Path, config: PeftConfig, tensors: Mapping[str, Tensor]) -> Path:
    """Write a configuration and tensors of any shape, by their full names; returns the folder.

    Raises:
        UserError: the folder exists already, or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; name another folder")
    with written_whole(folder) as unfinished:
        fill(unfinished, config, tensors)
    return folder


def fill(folder: Path, config: PeftConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter into a folder that is there; as `write_adapter`."""
    config.inference_mode = True
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
