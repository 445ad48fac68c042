"""Blocks inside torch's checkpoint wrappers, which FSDP's own activation checkpointing puts around them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

WRAPPED = "_checkpoint_wrapped_module"


@contextmanager
def without_checkpoint_wrappers(model: nn.Module) -> Iterator[None]:
    """Take the wrappers out of the model for a moment.

    PEFT looks for an adapter's tensors under the names of its modules. With wrappers these are not the names that
    `state_dict` gives, so PEFT would save an adapter without tensors, and load none, without a word.
    """
    taken: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and WRAPPED in child._modules:
                taken.append((parent, name, child))
                parent._modules[name] = child._modules[WRAPPED]
    try:
        yield
    finally:
        for parent, name, wrapper in taken:
            parent._modules[name] = wrapper
