"""The layer's own products against the formula term by term: what LORAWEAVE_REFERENCE=1 runs."""

import subprocess
import sys
from collections import OrderedDict

import peft
import pytest
import torch
from tiny_adapters import preset
from torch import nn

from loraweave import WeaveConfig
from loraweave.config import PRESETS
from loraweave.tuner import layer

NAMES = ["a", "b", "c"]
FREE: dict[str, dict] = {  # combinations that no preset has, with dropout
    "groups of the best two, a mask per head": {"gate": "token", "gate_groups": 2, "top_k": 2, "head_dropout": True},
    "groups on an anchor": {"gate": "token", "gate_groups": 3, "start": "random_anchored", "head_dropout": True},
    "a router on every head's A x": {"gate": "token", "gate_groups": 2, "router_input": "rank", "down": "per_head"},
    "the best two cores": {"gate": "token", "up": "shared", "top_k": 2, "head_dropout": True},
    "own diagonals": {"gate": "own", "down": "per_head", "task_transform": "diagonal"},
    "own on a frozen A": {"gate": "own", "train_down": False, "task_transform": True, "up_density": 0.5},
    "the best two by task": {
        "gate": "task",
        "top_k": 2,
        "task_transform": True,
        "down": "per_head",
        "use_rslora": True,
    },
    "channels": {"gate": "channel", "head_dropout": True, "task_transform": "diagonal"},
}


def one_layer(base: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layer=base))


def configured(name: str, **knobs) -> WeaveConfig:
    return preset(name, **knobs) if name in PRESETS else WeaveConfig(lora_dropout=0.3, **FREE[name], **knobs)


@pytest.mark.parametrize("name", [*PRESETS, *FREE])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        (torch.float64, False, 1e-10),
        (torch.float32, False, 1e-5),
        (torch.bfloat16, False, 6e-2),
        (torch.float32, True, 6e-2),
    ],
    ids=["float64", "float32", "bfloat16", "autocast"],
)
def test_both_paths_agree(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    training: bool,
    per_token: bool,
    dtype: torch.dtype,
    autocast: bool,
    tolerance: float,
):
    """Values, and gradients of x and of every adapter tensor, with the same dropout, on random shapes."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for _ in range(3):
        d_in, d_out, batch, tokens = (int(i) for i in torch.randint(3, 40, (4,), generator=generator))
        torch.manual_seed(0)
        config = configured(name, r=2, num_heads=3, task_names=NAMES, target_modules=["layer"], init_weights=False)
        model = peft.get_peft_model(one_layer(nn.Linear(d_in, d_out)), config, autocast_adapter_dtype=False).to(dtype)
        model.train(training)
        tasks = torch.randint(3, (batch, tokens) if per_token else (batch,), generator=generator)
        start = torch.randn(batch, tokens, d_in, generator=generator).to(dtype)
        grad_y = torch.randn(batch, tokens, d_out, generator=generator)
        results = []
        for reference in (False, True):
            monkeypatch.setattr(layer, "REFERENCE", reference)
            torch.manual_seed(2)
            x = start.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = model(x, tasks=tasks)
            (y.float() * grad_y).sum().backward()
            results.append({"y": y, "x": x.grad, **{n: p.grad for n, p in model.named_parameters() if p.requires_grad}})
            model.zero_grad()
        for key, value in results[1].items():
            scale = value.abs().max().clamp(min=1e-3)
            assert results[0][key].dtype == value.dtype
            assert (results[0][key] - value).abs().max() <= tolerance * scale, key


@pytest.mark.long
def test_the_environment_chooses_the_path():
    script = "from loraweave.tuner import layer; print(layer.REFERENCE)"
    for value, expected in (("", "False"), ("0", "False"), ("1", "True")):
        printed = subprocess.run(
            [sys.executable, "-c", script],
            env={"PATH": "", "LORAWEAVE_REFERENCE": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == expected


def test_what_others_can_see_is_not_written_into():
    """A hook on the frozen layer keeps its output; the adapter must not change it afterwards."""
    base = nn.Linear(6, 5)
    model = peft.get_peft_model(one_layer(base), preset("mlora", r=2, target_modules=["layer"], init_weights=False))
    seen = []
    base.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(2, 3, 6)
    y = model(x)
    assert not torch.equal(seen[0], y)
    torch.testing.assert_close(seen[0], nn.functional.linear(x, base.weight, base.bias))


def test_an_input_of_the_wrong_size_is_an_error():
    model = peft.get_peft_model(one_layer(nn.Linear(3, 5)), preset("mlora", r=2, target_modules=["layer"]))
    with pytest.raises(RuntimeError, match="shape"):
        model(torch.randn(4, 2, 6))


def test_a_trained_bias_gets_its_gradient():
    config = preset("mlora", r=2, target_modules=["layer"], bias="weave_only")
    model = peft.get_peft_model(one_layer(nn.Linear(4, 3)), config)
    model(torch.randn(5, 4)).sum().backward()
    torch.testing.assert_close(model.base_model.model.layer.base_layer.bias.grad, torch.full((3,), 5.0))
