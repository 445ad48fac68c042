"""Losses on A x and on routers: they see tasks and not padding, count a step once, and go down when trained on."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from few import few
from peft import LoraConfig, get_peft_model
from tiny_adapters import preset
from tiny_rows import NAMES, random_rows
from tiny_training import OneProcess, as_rows

from loraweave.config import PRESETS
from loraweave.data.rows import TokenRows
from loraweave.errors import UserError
from loraweave.lowrank.divergences import spectral_overlap
from loraweave.runs.adapting import adapted
from loraweave.runs.loss_config import LossConfig
from loraweave.runs.methods import choose_method
from loraweave.training.auxiliary import Auxiliary
from loraweave.tuner.layer import WeaveLinear
from loraweave.tuner.probe import Probe

TARGETS = {"q_proj", "down_proj"}
KL, MMD, BALANCE, LOCALIZED, SPECTRAL = (
    LossConfig(alignment=0.5),
    LossConfig(alignment=0.5, alignment_distance="mmd"),
    LossConfig(load_balance=0.5),
    LossConfig(localized_balance=0.5, localized_groups=[[NAMES[1]], [NAMES[0]]], localized_delta=0.4),
    LossConfig(spectral=0.5),
)


class TwoProcesses(OneProcess):
    """Adds what the other process, given beforehand, would add."""

    num_processes = 2

    def __init__(self, other: torch.Tensor) -> None:
        self.other = other

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor + self.other


def adapted_model(tiny_model: Callable, name: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    if name == "lora":
        config: Any = LoraConfig(r=3, target_modules=TARGETS, lora_dropout=dropout, task_type="CAUSAL_LM")
    else:
        config = preset(name, r=3, task_names=NAMES, task_type="CAUSAL_LM", lora_dropout=dropout)
        config.target_modules = TARGETS
    return get_peft_model(tiny_model(), config).train()


def batch(seed: int = 1, rows: int = 4, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Ids, task ids per token and padding: the last row is two tokens short."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (rows, tokens), generator=generator)
    tasks = torch.arange(rows)[:, None].expand(rows, tokens) % 2
    padding = torch.zeros(rows, tokens, dtype=torch.bool)
    padding[-1, -2:] = True
    return {"ids": ids, "tasks": tasks, "padding": padding}


def loss_of(auxiliary: Auxiliary, model: Any, data: dict, accumulation: int = 1, last: bool = True) -> torch.Tensor:
    probe = auxiliary.probe(data["tasks"], data["padding"], accumulation, log=False)
    with auxiliary.watch(probe):
        takes_tasks = auxiliary.has_gate or getattr(model.active_peft_config, "needs_tasks", False)
        forward = {"tasks": data["tasks"]} if takes_tasks else {}
        model(input_ids=data["ids"], **forward)
    return auxiliary.loss(probe, accumulation, last)


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in trained(model)]


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ["lora", "weave", *(name for name in PRESETS if name != "own")])
def test_alignment_is_the_formula_on_each_layers_a_x_by_task(tiny_model: Callable, name: str) -> None:
    """Every layer's A x is computed apart, from its input; tokens are grouped by task id; padding is left out."""
    model = adapted_model(tiny_model, name)
    data = batch()
    inputs: dict[str, torch.Tensor] = {}
    layers = {n: m for n, m in model.named_modules() if n.split(".")[-1] in TARGETS}
    for n, layer in layers.items():
        layer.register_forward_pre_hook(lambda module, args, n=n: inputs.__setitem__(n, args[0].detach()))
    auxiliary = Auxiliary(model, KL, NAMES, OneProcess())
    result = loss_of(auxiliary, model, data)

    per_layer = []
    for n, layer in layers.items():
        A = layer.lora_A["default"].weight if name == "lora" else layer.weave_A["default"].flatten(0, 1)
        u = inputs[n] @ A.T
        groups = [u[(data["tasks"] == k) & ~data["padding"]] for k in (0, 1)]
        mean, var = zip(*[(g.mean(0), g.var(0, unbiased=False)) for g in groups], strict=True)
        gap = (mean[0] - mean[1]) ** 2
        one = 0.5 * (torch.log(var[1] / var[0]) + (var[0] + gap) / var[1] - 1).sum()
        two = 0.5 * (torch.log(var[0] / var[1]) + (var[1] + gap) / var[0] - 1).sum()
        per_layer.append(0.5 * (one + two))
    torch.testing.assert_close(result, 0.5 * torch.stack(per_layer).mean(), rtol=1e-3, atol=1e-5)
    # the same tokens under other tasks are another loss, in another order of rows the same one
    swapped = {**data, "tasks": data["tasks"].flip(0)[[0, 0, 3, 3]]}
    assert not torch.allclose(loss_of(auxiliary, model, swapped), result, rtol=1e-2)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        loss_of(auxiliary, model, {key: value[order] for key, value in data.items()}), result, rtol=1e-3, atol=1e-5
    )
    garbage = {**data, "ids": data["ids"].masked_fill(data["padding"], 9)}
    torch.testing.assert_close(loss_of(auxiliary, model, garbage), result, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("lora", KL),
        ("rlora", KL),
        ("lora", MMD),
        ("hydralora", BALANCE),
        ("loramoe", LOCALIZED),
        ("rlora", SPECTRAL),
        ("mlora", SPECTRAL),
    ],
)
def test_micro_batches_count_as_one_step(tiny_model: Callable, name: str, config: LossConfig) -> None:
    model = adapted_model(tiny_model, name)
    data = batch()
    whole = loss_of(Auxiliary(model, config, NAMES, OneProcess()), model, data)
    expected = gradients(model, whole)
    assert any(g.abs().sum() > 0 for g in expected)

    # The same tokens four times are the same distribution: value and gradient are those of one batch.
    auxiliary = Auxiliary(model, config, NAMES, OneProcess())
    parts = [loss_of(auxiliary, model, data, 4, last=i == 3) for i in range(4)]
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if config is not MMD else {"rtol": 0.6, "atol": 1e-2}  # fewer samples
    torch.testing.assert_close(sum(parts), whole, **tolerance)
    if config is not MMD:
        for part, one in zip(gradients(model, sum(parts)), expected, strict=True):
            torch.testing.assert_close(part, one, rtol=1e-3, atol=1e-6)

    # One task to a micro-batch: nothing to compare within any, all of it over the step.
    auxiliary = Auxiliary(model, config, NAMES, OneProcess())
    single = [{key: value[rows] for key, value in data.items()} for rows in (slice(0, 4, 2), slice(1, 4, 2))]
    apart = [loss_of(auxiliary, model, one, 2, last=i == 1) for i, one in enumerate(single)]
    torch.testing.assert_close(sum(apart), whole, **tolerance)


@pytest.mark.parametrize(
    ("name", "config"), [("lora", KL), ("hydralora", BALANCE), ("loramoe", LOCALIZED), ("rlora", SPECTRAL)]
)
def test_processes_count_as_one(tiny_model: Callable, name: str, config: LossConfig) -> None:
    model = adapted_model(tiny_model, name)
    data = batch()
    whole = loss_of(Auxiliary(model, config, NAMES, OneProcess()), model, data)
    expected = gradients(model, whole)
    halves = [{key: value[rows] for key, value in data.items()} for rows in (slice(0, 1), slice(1, 4))]
    sums = []
    for half in halves:
        alone = Auxiliary(model, config, NAMES, OneProcess())
        loss_of(alone, model, half, 2, last=False)
        sums.append(alone.running)
    results = [
        loss_of(Auxiliary(model, config, NAMES, TwoProcesses(sums[1 - i])), model, half)
        for i, half in enumerate(halves)
    ]
    torch.testing.assert_close(results[0], whole)
    torch.testing.assert_close(results[1], whole)
    averaged = [sum(pair) / 2 for pair in zip(*(gradients(model, r) for r in results), strict=True)]
    for mean, one in zip(averaged, expected, strict=True):
        torch.testing.assert_close(mean, one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("config", [KL, MMD], ids=["kl", "mmd"])
@pytest.mark.parametrize("name", few(["lora", "rlora", "multilora"], ["lora"]))
def test_alignment_goes_down_in_training(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, name: str, config: LossConfig
) -> None:
    logged = {}
    for weight in (0.0, 0.5):
        # Measured in both runs; a weight of nearly nothing trains on it nearly not at all.
        losses = config.model_copy(update={"alignment": weight or 1e-9})
        trainer = make_trainer(
            adapted_model(tiny_model, name),
            rows,
            losses=losses,
            max_steps=15,
            learning_rate=2e-3,
            gradient_accumulation_steps=2,
        )
        trainer.train()
        trainer.release()
        logged[weight] = [
            line["loss_alignment"] / losses.alignment for line in trainer.state.log_history if "loss" in line
        ]
    assert logged[0.5][0] == pytest.approx(logged[0.0][0], rel=1e-3)
    assert sum(logged[0.5][-3:]) < 0.9 * sum(logged[0.0][-3:])
    assert sum(logged[0.5][-3:]) < sum(logged[0.5][:3])


def test_load_balance_brings_the_heads_together(tiny_model: Callable, make_trainer: Callable, rows: TokenRows) -> None:
    model = adapted_model(tiny_model, "hydralora")
    routers = [m for m in model.modules() if hasattr(m, "weave_router")]
    means: dict[Any, torch.Tensor] = {}
    hooks = [m.register_forward_pre_hook(lambda m, args: means.__setitem__(m, args[0].mean((0, 1)))) for m in routers]
    with torch.no_grad():  # routers that have fallen in love with one head
        model(input_ids=batch()["ids"])
        for layer in routers:
            layer.weave_router["default"][0] += 3 * means[layer] / means[layer].norm() ** 2
    for hook in hooks:
        hook.remove()
    trained_with = {}
    for weight in (0.0, 1.0):
        trainer = make_trainer(
            copy.deepcopy(model), rows, losses=LossConfig(load_balance=weight), max_steps=12, learning_rate=2e-2
        )
        trainer.train()
        trainer.release()
        last = [line for line in trainer.state.log_history if "loss" in line][-1]
        assert ("loss_load_balance" in last) == (weight > 0)
        routing = trainer.auxiliary.routing()
        assert routing is not None
        trained_with[weight] = sum(layer["usage"][0][0] for layer in routing["layers"].values()) / len(routers)
    assert trained_with[0.0] > 0.4
    assert trained_with[1.0] < 0.9 * trained_with[0.0]


@pytest.mark.parametrize("name", ["hydralora", "rlora", "mtllora", "moelora"])
def test_router_health_is_what_the_gates_say(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, name: str
) -> None:
    model = adapted_model(tiny_model, name)
    trainer = make_trainer(model, rows, max_steps=2, logging_steps=2, learning_rate=1e-9)
    trainer.train()
    trainer.release()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    heads = model.peft_config["default"].num_heads
    for task in NAMES:
        usage = [line[f"router/usage/{task}/head{h}"] for h in range(heads)]
        assert sum(usage) == pytest.approx(1, abs=1e-4)
        assert 0 < line[f"router/entropy/{task}"] <= 1 + 1e-6
    if name == "rlora":  # every router starts at zero: all heads weigh alike
        assert line["router/entropy"] == pytest.approx(1, abs=1e-5)
        assert usage == pytest.approx([1 / heads] * heads, abs=1e-4)
    if name == "mtllora":  # gates of tasks are known without running anything
        layers = [m for m in model.modules() if hasattr(m, "weave_task_logits")]
        gates = torch.stack([layer.formula("default").head_weights() for layer in layers]).mean(0)
        for k, task in enumerate(NAMES):
            usage = [line[f"router/usage/{task}/head{h}"] for h in range(heads)]
            assert usage == pytest.approx(gates[k].tolist(), abs=1e-3)


@pytest.mark.parametrize("name", ["lora", "mlora", "multilora"])
def test_nothing_is_looked_at_where_there_is_nothing_to_see(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, name: str
) -> None:
    trainer = make_trainer(adapted_model(tiny_model, name), rows, max_steps=1)
    trainer.train()
    trainer.release()
    assert trainer.auxiliary.routing() is None
    assert not any("router" in key for line in trainer.state.log_history for key in line)


@pytest.mark.parametrize("name", ["lora", "rlora"])
def test_checkpointed_blocks_are_seen_once(tiny_model: Callable, name: str) -> None:
    model = adapted_model(tiny_model, name)
    data = batch()
    expected = gradients(model, loss_of(Auxiliary(model, KL, NAMES, OneProcess()), model, data))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    auxiliary = Auxiliary(model, KL, NAMES, OneProcess())
    for one, plain in zip(gradients(model, loss_of(auxiliary, model, data)), expected, strict=True):
        torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-6)
    assert len(Probe(data["tasks"], 2).silent().layers) == 0


@pytest.mark.parametrize("name", ["lora", "rlora"])
def test_reentrant_checkpoints_are_refused(tiny_model: Callable, name: str) -> None:
    model = adapted_model(tiny_model, name)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(UserError, match="use_reentrant"):
        loss_of(Auxiliary(model, KL, NAMES, OneProcess()), model, batch())


def test_the_spectral_loss_pushes_heads_apart(tiny_model: Callable, make_trainer: Callable, rows: TokenRows) -> None:
    model = adapted_model(tiny_model, "rlora")

    def overlap(model: Any) -> float:
        heads = [m.formula("default").B for m in model.modules() if isinstance(m, WeaveLinear)]
        return float(torch.stack([spectral_overlap(B) for B in heads]).mean())

    after = {}
    for weight in (0.0, 20.0):
        trained_model = copy.deepcopy(model)
        trainer = make_trainer(
            trained_model, rows, losses=LossConfig(spectral=weight), max_steps=24, learning_rate=1e-2
        )
        trainer.train()
        after[weight] = overlap(trained_model)
        logged = [line["loss_spectral"] for line in trainer.state.log_history if "loss_spectral" in line]
        assert bool(logged) == (weight > 0)
    assert logged[0] == pytest.approx(20 * overlap(model), rel=1e-3)
    assert after[20.0] < 0.1 * after[0.0]


def test_what_has_no_meaning_is_refused(tiny_model: Callable) -> None:
    with pytest.raises(UserError, match="at least two"):
        Auxiliary(adapted_model(tiny_model, "lora"), KL, ["one"], OneProcess())
    for name in ("lora", "mtllora", "mlora"):
        with pytest.raises(UserError, match="router on tokens"):
            Auxiliary(adapted_model(tiny_model, name), BALANCE, NAMES, OneProcess())
        with pytest.raises(UserError, match="router on tokens"):
            Auxiliary(adapted_model(tiny_model, name), LOCALIZED, NAMES, OneProcess())
    with pytest.raises(UserError, match="heads apart"):
        Auxiliary(adapted_model(tiny_model, "lora"), SPECTRAL, NAMES, OneProcess())
    for groups, message in ((None, "localized_groups: two"), ([NAMES, NAMES], "once"), ([NAMES[:1], ["no"]], "once")):
        config = LossConfig(localized_balance=0.1, localized_groups=groups)
        with pytest.raises(UserError, match=message):
            Auxiliary(adapted_model(tiny_model, "loramoe"), config, NAMES, OneProcess())
    for values, message in (
        ({"alignment": -1}, "alignment"),
        ({"spectral": -1}, "spectral"),
        ({"localized_delta": 2}, "localized_delta"),
        ({"alignment": "much"}, "alignment"),
        ({"alignment_distance": "cosine"}, "kl"),
        ({"load_balance": float("nan")}, "load_balance"),
    ):
        with pytest.raises(UserError, match=message):
            choose_method({"name": "rlora", **values})


def test_align_lora_is_lora_with_a_loss_and_leaves_the_base_alone(tiny_model: Callable, make_trainer: Callable) -> None:
    assert choose_method("alignlora").losses.alignment == 0.2
    assert choose_method({"name": "alignlora", "alignment": 0.1}).losses.alignment == 0.1
    base = tiny_model()
    with adapted(base, choose_method("alignlora"), NAMES, 0, True) as model:
        assert isinstance(model.active_peft_config, LoraConfig)
        trainer = make_trainer(model, as_rows(*random_rows()), losses=choose_method("alignlora").losses, max_steps=2)
        trainer.train()
        trainer.release()
        assert "loss_alignment" in trainer.state.log_history[0]
    assert not base._forward_hooks
    assert not base._forward_pre_hooks
