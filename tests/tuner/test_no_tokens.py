"""A layer that is given no token at all gives none back, forward and backward: an expert that nothing is routed to."""

import peft
import pytest
import torch
from torch import nn

import loraweave

METHODS = ["MultiLoraConfig", "HydraLoraConfig", "RLoraConfig", "MLoraConfig", "MtlLoraConfig", "MoeLoraConfig"]


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return self.lin(x)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (0, 3, 8)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_no_tokens(name: str, training: bool, shape: tuple[int, ...]) -> None:
    config = getattr(loraweave, name)(target_modules=["lin"], task_names=["a", "b"])
    model = peft.get_peft_model(OneLayer(), config).train(training)
    x = torch.randn(*shape, requires_grad=True)
    with loraweave.task(model, "a"):
        y = model(x)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 6)
    assert x.grad is not None
    assert x.grad.shape == shape
