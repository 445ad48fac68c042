"""Passes through a model beside its training, of which the training notices nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unnoticed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, and afterwards every module's own mode and all random numbers as they were."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else ()):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
