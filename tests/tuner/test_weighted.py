"""A weighted sum of adapters as one adapter: exact, for all tasks at once, and refused where there is none."""

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_adapters import FOLDING, METHODS, NAMES, ON_INPUT, adapted, logits, method, randomize
from torch import nn

from loraweave import UserError, WeaveConfig


class TwoLayers(nn.Module):
    """Its output is linear in each update, so a sum of updates shows as a sum of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(40, 48), nn.Linear(40, 44)

    def forward(self, x):
        return torch.cat([self.wide(x), self.narrow(x)], dim=-1)


def on_two_layers(**adapters: WeaveConfig) -> nn.Module:
    torch.manual_seed(0)
    model = None
    for seed, (name, config) in enumerate(adapters.items()):
        config.task_type = None
        if model is None:
            model = get_peft_model(TwoLayers(), config, adapter_name=name).double().eval()
        else:
            model.add_adapter(name, config)
        randomize(model, seed, name)
    return model.double()


def update(model: nn.Module, adapter: str, x: torch.Tensor, tasks) -> torch.Tensor:
    """What an adapter adds to the output."""
    model.set_adapter(adapter)
    with torch.no_grad(), model.disable_adapter():
        base = model(x)
    with torch.no_grad():
        return model(x, tasks=tasks) - base


PAIRS = list(itertools.combinations_with_replacement(FOLDING, 2))
TASK_IDS = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]])


@pytest.mark.parametrize(("one", "two"), PAIRS, ids="+".join)
def test_the_sum_of_two_is_exact_for_every_token_s_task(one: str, two: str):
    model = on_two_layers(one=method(one, r=2, num_heads=3), two=method(two, r=3, num_heads=2, target_modules=["wide"]))
    model.add_weighted_adapter(["one", "two"], [0.7, -1.3], "sum")
    x = torch.randn(2, 4, 40, dtype=torch.float64)
    expected = 0.7 * update(model, "one", x, TASK_IDS) - 1.3 * update(model, "two", x, TASK_IDS)
    torch.testing.assert_close(update(model, "sum", x, TASK_IDS), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "knobs",
    [
        {"gate": "channel", "down": "per_head", "task_transform": True},
        {"gate": "uniform", "task_transform": True, "start": "random_anchored"},
        {"gate": "task", "task_transform": True, "start": "random_anchored"},
        {"gate": "task_embedding", "down": "shared"},
        {"gate": "channel", "start": "random_anchored"},
        {"gate": "token", "num_heads": 1},
    ],
    ids=str,
)
def test_the_sum_is_exact_for_free_combinations_of_knobs(knobs: dict):
    free = WeaveConfig(**{"r": 2, "num_heads": 3, "task_names": NAMES, **knobs}, target_modules=["wide", "narrow"])
    model = on_two_layers(one=free, two=method("mlora", r=2))
    model.add_weighted_adapter(["one", "two"], [1.5, 0.5], "sum")
    x = torch.randn(2, 4, 40, dtype=torch.float64)
    expected = 1.5 * update(model, "one", x, TASK_IDS) + 0.5 * update(model, "two", x, TASK_IDS)
    torch.testing.assert_close(update(model, "sum", x, TASK_IDS), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_one_adapter_alone_is_scaled_and_keeps_its_method(name: str):
    model = on_two_layers(one=method(name))
    model.add_weighted_adapter(["one"], [-0.5], "scaled")
    x = torch.randn(2, 4, 40, dtype=torch.float64)
    torch.testing.assert_close(update(model, "scaled", x, TASK_IDS), -0.5 * update(model, "one", x, TASK_IDS))
    assert model.peft_config["scaled"].method == model.peft_config["one"].method


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_sum_is_what_several_active_adapters_do_and_survives_saving(tiny_model, tmp_path: Path, architecture: str):
    targets = {"llama": (["q_proj", "down_proj"], ["q_proj", "k_proj"]), "gpt2": (["c_attn"], ["c_attn", "c_fc"])}
    first, second = targets[architecture]
    model = adapted(tiny_model(architecture), "multilora", target_modules=first)
    model.add_adapter("two", method("mlora", target_modules=second))
    randomize(model, 1, "two")
    model.base_model.set_adapter(["default", "two"])
    expected = logits(model)
    model.add_weighted_adapter(["default", "two"], [1.0, 1.0], "sum")
    assert torch.equal(logits(model), expected)  # adding alone changes nothing
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".sum"))
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "sum").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)


def test_a_rank_above_a_layer_s_sides_is_brought_down_without_loss(tiny_model):
    model = adapted(tiny_model(), "multilora", num_heads=5)  # 20, on layers of 16 … 48
    model.add_adapter("two", method("multilora", num_heads=6))
    randomize(model, 1, "two")
    model.base_model.set_adapter(["default", "two"])
    expected = logits(model)
    model.add_weighted_adapter(["default", "two"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    k_proj = model.base_model.model.model.layers[0].self_attn.k_proj
    assert k_proj.weave_A["sum"].shape == (1, 16, 32)


@pytest.mark.parametrize("name", ON_INPUT)
def test_heads_weighed_by_the_input_have_no_sum(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    model.add_adapter("two", method("mlora"))
    before = set(model.state_dict())
    with pytest.raises(UserError, match=rf"'default' \({name}\) weighs its heads by the input.*set_adapter"):
        model.add_weighted_adapter(["default", "two"], [1.0, 1.0], "sum")
    assert set(model.state_dict()) == before
    assert "sum" not in model.peft_config


def test_what_has_no_sum_is_named(tiny_model):
    model = adapted(tiny_model(), "mtllora")
    model.add_adapter("other", method("moelora", task_names=["a", "c"]))
    model.add_adapter("head", method("mlora", target_modules=["q_proj"], modules_to_save=["lm_head"]))
    for adapters, weights, new, kind, message in (
        (["default", "other"], [1, 1], "sum", "cat", "know different tasks"),
        (["default", "head"], [1, 1], "sum", "cat", "'head' has modules_to_save"),
        (["default", "oter"], [1, 1], "sum", "cat", "unknown adapter 'oter', did you mean 'other'"),
        (["default"], [1, 1], "sum", "cat", "one weight"),
        (["default"], [1], "other", "cat", "'other' exists already"),
        (["default"], [1], "sum", "svd", "combination_type='svd'"),
    ):
        with pytest.raises(UserError, match=message):
            model.add_weighted_adapter(adapters, weights, new, combination_type=kind)
    biased = get_peft_model(tiny_model("gpt2"), method("mlora", bias="all"))
    with pytest.raises(UserError, match="trained biases"):
        biased.add_weighted_adapter(["default"], [1.0], "sum")


def test_a_task_sum_wider_than_the_layers_is_as_exact():
    model = on_two_layers(one=method("mtllora", r=5, num_heads=8), two=method("moelora", r=7, num_heads=8))
    model.add_weighted_adapter(["one", "two"], [0.7, -1.3], "sum")
    x = torch.randn(2, 4, 40, dtype=torch.float64)
    expected = 0.7 * update(model, "one", x, TASK_IDS) - 1.3 * update(model, "two", x, TASK_IDS)
    torch.testing.assert_close(update(model, "sum", x, TASK_IDS), expected, rtol=1e-9, atol=1e-9)
    assert model.base_model.model.wide.weave_A["sum"].shape == (1, 48, 40)  # not 40 + 56
