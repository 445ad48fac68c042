"""A layer that is given no token at all gives none back, forward and backward: an expert that nothing is routed to."""

import peft
import pytest
import torch
from tiny_adapters import METHODS, preset
from torch import nn

import loraweave


class OneLayer(nn.Module):
    """A linear layer within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(8, 6))

    def forward(self, x: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return self.part(x)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (0, 3, 8)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("target", ["part.0", "part"])
@pytest.mark.parametrize("name", METHODS)
def test_no_tokens(name: str, target: str, training: bool, shape: tuple[int, ...]) -> None:
    config = preset(name, r=2, target_modules=[target], task_names=["a", "b"])
    model = peft.get_peft_model(OneLayer(), config).train(training)
    x = torch.randn(*shape, requires_grad=True)
    with loraweave.task(model, "a"):
        y = model(x)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 6)
    assert x.grad is not None
    assert x.grad.shape == shape
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "weave_" in n)
