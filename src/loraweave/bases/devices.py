"""Where models run."""

import warnings

import torch

from loraweave.errors import Notice


def device() -> torch.device:
    """The first CUDA device where torch has one, else the CPU; a `Notice` names an accelerator that is not used."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        warnings.warn(
            f"this runs on the CPU: of accelerators only CUDA is used, not this machine's {found}", Notice, stacklevel=3
        )
    return torch.device("cpu")
