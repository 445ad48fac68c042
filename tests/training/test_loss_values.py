"""The losses beside the language model's, worked out by hand on combinations of knobs that no preset has."""

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from peft import get_peft_model
from tiny_adapters import randomize
from tiny_rows import NAMES
from tiny_training import OneProcess

from loraweave import UserError, WeaveConfig
from loraweave.runs.loss_config import LossConfig
from loraweave.training.auxiliary import Auxiliary
from loraweave.tuner.layer import WeaveLinear

TARGETS = ["q_proj", "down_proj"]
IDS = torch.randint(3, 60, (4, 6), generator=torch.Generator().manual_seed(1))
TASKS = torch.tensor([0, 1, 1, 0])[:, None].expand(4, 6)
OF_TASK = [TASKS.eq(0), TASKS.eq(1)]
GROUPS = [[NAMES[1]], [NAMES[0]]]
EXPERTS: dict[str, Any] = {"gate": "token", "down": "per_head", "num_heads": 5}
KNOBS: dict[str, dict[str, Any]] = {
    "the best two": {**EXPERTS, "top_k": 2},
    "the best two in groups of channels": {**EXPERTS, "top_k": 2, "gate_groups": 3},
    "a router on A x": {**EXPERTS, "router_input": "rank", "num_heads_pattern": {"q_proj": 3}},
    "a head that is alone": {**EXPERTS, "num_heads_pattern": {"q_proj": 1}},
    "own": {"gate": "own", "down": "per_head"},
    "own, sparse": {"gate": "own", "up_density": 0.5},
    "cores": {"gate": "token", "up": "shared", "num_heads": 3},
    "beside blocks": {"gate": "own", "target_modules": ["mlp", "self_attn"]},
}


def built(tiny_model: Callable, knobs: dict[str, Any]) -> Any:
    config = WeaveConfig(**{"r": 2, "target_modules": TARGETS, "task_names": NAMES, "task_type": "CAUSAL_LM", **knobs})
    model = get_peft_model(tiny_model().double(), config, autocast_adapter_dtype=False).eval()
    randomize(model)
    for name, parameter in model.named_parameters():
        if "weave_B_mask" in name:
            parameter.copy_(torch.rand(parameter.shape) < config.up_density)
    return model


def layers_of(model: Any) -> dict[str, WeaveLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, WeaveLinear)}


def loss_of(model: Any, config: LossConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one batch, and what every adapted layer read."""
    inputs: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable:
        return lambda _, args, given: inputs.update({name: (args or [given["hidden_states"]])[0].detach()})

    hooks = [m.register_forward_pre_hook(note(name), with_kwargs=True) for name, m in layers_of(model).items()]
    auxiliary = Auxiliary(model, config, NAMES, OneProcess())
    probe = auxiliary.probe(TASKS, torch.zeros(4, 6, dtype=torch.bool), 1, log=False)
    with auxiliary.watch(probe):
        model(input_ids=IDS, tasks=TASKS)
    for hook in hooks:
        hook.remove()
    loss = auxiliary.loss(probe, 1, last=True)
    assert loss is not None
    return loss.double(), inputs


def weights_by_hand(layer: WeaveLinear, x: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, N): the router's softmax as tests/reference.py has it, its mean over groups of channels."""
    config, A = layer.knobs["default"].config, layer.weave_A["default"]
    source = torch.cat([x @ a.T for a in A], -1) if config.router_input == "rank" else x
    routers = layer.weave_router["default"].chunk(config.gate_groups)
    return torch.stack([reference.softmax(source @ router.T, config.top_k) for router in routers]).mean(0)


@pytest.mark.parametrize("name", [name for name, knobs in KNOBS.items() if knobs["gate"] == "token"])
@pytest.mark.parametrize("kind", ["load_balance", "localized_balance"])
def test_balances_are_of_the_weights_that_the_router_gives(tiny_model: Callable, name: str, kind: str) -> None:
    groups = {"localized_groups": GROUPS, "localized_delta": 0.3} if kind == "localized_balance" else {}
    model = built(tiny_model, KNOBS[name])
    loss, inputs = loss_of(model, LossConfig(**{kind: 0.5}, **groups))
    each = []
    for path, layer in layers_of(model).items():
        total = torch.zeros(layer.formula("default").num_heads, dtype=torch.float64)
        for task in range(2):
            weights = weights_by_hand(layer, inputs[path])[OF_TASK[task]].sum(0)
            for head in range(len(weights)):
                own = head * len(GROUPS) // len(weights) == next(g for g, of in enumerate(GROUPS) if NAMES[task] in of)
                factor = (1.3 if own else 0.7) if kind == "localized_balance" else 1.0
                total[head] += factor * weights[head]
        each.append(total.var(correction=0) / total.mean() ** 2)
    torch.testing.assert_close(loss, 0.5 * torch.stack(each).mean(), rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(loss, [layer.weave_router["default"] for layer in layers_of(model).values()])
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", KNOBS)
def test_the_spectral_loss_is_of_the_heads_that_speak(tiny_model: Callable, name: str) -> None:
    """Masked and with their cores; layers with one head have none to push apart."""
    model = built(tiny_model, KNOBS[name])
    loss, _ = loss_of(model, LossConfig(spectral=0.5))
    each = []
    for layer in layers_of(model).values():
        B = layer.weave_B["default"]
        if "weave_B_mask" in layer.knobs["default"].tensors:
            B = torch.where(layer.weave_B_mask["default"], B, 0)
        if "weave_core" in layer.knobs["default"].tensors:
            B = torch.stack([B[0] @ core for core in layer.weave_core["default"]])
        if len(B) > 1:
            _, s, V = torch.linalg.svd(B, full_matrices=False)
            W = B @ (V.mT @ torch.diag_embed(torch.exp(-s / s.mean(-1, keepdim=True))) @ V)
            each.append(sum((W[i].T @ W[j]).square().sum() for j in range(len(B)) for i in range(j)))
    torch.testing.assert_close(loss, 0.5 * torch.stack(each).mean(), rtol=1e-3, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss, next(iter(layers_of(model).values())).weave_B["default"], allow_unused=True)
    assert gradient is None or gradient.isfinite().all()


def test_alignment_of_heads_of_their_own_compares_what_each_task_passes_through(tiny_model: Callable) -> None:
    model = built(tiny_model, KNOBS["own"])
    loss, inputs = loss_of(model, LossConfig(alignment=0.5))
    each = []
    for path, layer in layers_of(model).items():
        means, variances = [], []
        for task in range(2):
            u = inputs[path][OF_TASK[task]] @ layer.weave_A["default"][task].T
            means.append(u.mean(0))
            variances.append(u.var(0, correction=0))
        gap = (means[0] - means[1]).square()
        pairs = [(variances[i] + gap) / variances[1 - i] - 1 for i in range(2)]
        each.append(0.25 * sum(pair.sum() for pair in pairs))
    torch.testing.assert_close(loss, 0.5 * torch.stack(each).mean(), rtol=1e-3, atol=1e-6)


def test_more_groups_than_heads_are_refused(tiny_model: Callable) -> None:
    config = LossConfig(localized_balance=0.1, localized_groups=[[name] for name in NAMES])
    three = built(tiny_model, {**EXPERTS, "num_heads_pattern": {"q_proj": 2}})
    Auxiliary(three, config, NAMES, OneProcess()).release()  # two groups, two heads or more
    wide = LossConfig(localized_balance=0.1, localized_groups=[[NAMES[0]], [NAMES[1]], []])
    with pytest.raises(UserError, match="localized_groups has 3 groups, and some layers have 2 heads alone"):
        Auxiliary(three, wide, NAMES, OneProcess())


def test_gates_of_some_layers_alone_are_watched(tiny_model: Callable) -> None:
    model = built(tiny_model, {"gate": "task", "num_heads_pattern": {"q_proj": 2}})
    assert Auxiliary(model, LossConfig(), NAMES, OneProcess()).has_gate


def test_directions_that_are_not_trained_are_not_pushed_apart(tiny_model: Callable) -> None:
    model = built(tiny_model, EXPERTS)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("weave_router" in name)
    with pytest.raises(UserError, match="spectral pushes the heads' B apart, and none of them is trained here"):
        Auxiliary(model, LossConfig(spectral=1.0), NAMES, OneProcess())
