"""Write an adapter's folder, whole or not at all, as PEFT's `save_pretrained` leaves it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from peft import PeftConfig
from safetensors.torch import save_file
from torch import Tensor

from loraweave.adapters.file import WEIGHTS
from loraweave.files import written_whole
from loraweave.locks import locked_new

BASE_RECORD = "base.json"
"""In the folder of a run's adapter: what base it is of, by its weights, and how that is loaded."""


def write_adapter(folder: Path, config: PeftConfig, tensors: Mapping[str, Tensor], source: Path | None = None) -> Path:
    """Write a configuration and tensors of any shape, by their full names; returns the folder. What an adapter in a
    folder `source` knows of its base, which is the same, is kept.

    Raises:
        UserError: the folder holds something already, or cannot be written.
    """
    with locked_new(folder), written_whole(folder) as unfinished:
        fill(unfinished, config, tensors, source)
    return folder


def fill(folder: Path, config: PeftConfig, tensors: Mapping[str, Tensor], source: Path | None = None) -> None:
    """Write an adapter into a folder that is there; as `write_adapter`."""
    config.inference_mode = True
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    if source is not None and (source / BASE_RECORD).is_file():
        shutil.copyfile(source / BASE_RECORD, folder / BASE_RECORD)
