"""For tests of experts: an embedding that can be worked out by hand, and a hash of every bit of a model."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

WORDS = ("sum", "add", "verb", "noun", "red", "blue")


def count_words(texts: Sequence[str]) -> np.ndarray:
    """Texts to counts of six words."""
    return np.array([[text.lower().split().count(word) for word in WORDS] for text in texts], dtype=float)


def bits(model: nn.Module) -> str:
    """A hash of every bit of every weight, under the names that the model has them by."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
