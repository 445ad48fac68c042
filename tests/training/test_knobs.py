"""Every knob trains and logs how its heads are weighed, whatever their number in a layer and a router's groups."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_rows import NAMES

from loraweave import UserError, WeaveConfig
from loraweave.data.rows import TokenRows

KNOBS: dict[str, dict[str, Any]] = {
    "own": {"gate": "own", "down": "per_head"},
    "own on a shared, frozen A": {"gate": "own", "train_down": False},
    "own with dropout and transforms": {"gate": "own", "head_dropout": True, "task_transform": True},
    "groups": {"gate": "token", "num_heads": 3, "gate_groups": 2},
    "other numbers of heads": {"gate": "token", "num_heads": 3, "num_heads_pattern": {"q_proj": 2, "k_proj": 1}},
    "other numbers of heads by task": {"gate": "task", "num_heads": 3, "num_heads_pattern": {"q_proj": 2}},
    "a router on A x": {"gate": "token", "num_heads": 3, "router_input": "rank"},
    "the best two heads": {"gate": "token", "num_heads": 3, "top_k": 2},
    "diagonals": {"gate": "task", "num_heads": 3, "task_transform": "diagonal"},
}


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
@pytest.mark.parametrize("packing", [False, True], ids=["a task per row", "mixed rows"])
def test_trains_and_tells_how_its_heads_are_weighed(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, knobs: dict[str, Any], packing: bool
) -> None:
    torch.manual_seed(0)
    config = WeaveConfig(r=2, lora_dropout=0.1, task_names=NAMES, task_type="CAUSAL_LM", **knobs)
    model = get_peft_model(tiny_model(), config)
    starts = {n: p.detach().clone() for n, p in model.named_parameters() if "weave_" in n}
    trainer = make_trainer(model, rows, packing=packing, max_steps=4)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    for name, now in model.named_parameters():
        if "weave_" in name:
            stays = not config.train_down and "weave_A" in name
            stays |= "weave_router" in name and ".k_proj." in name and len(now) == 1  # of one head alone
            assert torch.equal(now, starts[name]) == stays, name

    routing = trainer.auxiliary.routing()
    if config.gate == "own":
        assert routing is None
        return
    for path, layer in routing["layers"].items():
        heads = config.num_heads_pattern.get(path.split(".")[-2], config.num_heads)
        assert heads > 1  # one head alone has nothing to weigh
        assert 0 <= layer["entropy"] <= 1 + 1e-6
        for usage in layer["usage"]:
            assert len(usage) == heads
            assert sum(usage) == pytest.approx(1, abs=1e-5)
    logged = [line for line in trainer.state.log_history if "router/entropy" in line]
    assert len(logged) == 4
    for line in logged:
        assert all(math.isfinite(value) for key, value in line.items() if key.startswith("router/"))


def test_health_over_layers_counts_each_head_where_it_is(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows
) -> None:
    """A router of zeros weighs all heads alike: 1/2 in layers with two, 1/3 in those with three."""
    targets = ["q_proj", "v_proj"]
    knobs: dict[str, Any] = {"gate": "token", "num_heads": 3, "num_heads_pattern": {"q_proj": 2}}
    model = get_peft_model(tiny_model(), WeaveConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", **knobs))
    for name, parameter in model.named_parameters():
        if "weave_router" in name:
            parameter.data.zero_()
    trainer = make_trainer(model, rows, max_steps=1, learning_rate=0.0)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "router/entropy" in line)
    assert line["router/entropy"] == pytest.approx(1)
    for task in NAMES:
        usage = [line[f"router/usage/{task}/head{head}"] for head in range(3)]
        assert usage == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2, 1 / 3])


@pytest.mark.parametrize("gate", ["token", "task", "task_embedding"])
def test_one_head_that_speaks_alone_is_refused_in_training(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, gate: str
) -> None:
    config = WeaveConfig(r=2, gate=gate, num_heads=3, top_k=1, task_names=NAMES, task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="top_k=1 gives the one head"):
        make_trainer(get_peft_model(tiny_model(), config), rows)
