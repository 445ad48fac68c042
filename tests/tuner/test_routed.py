"""Layers that get tokens without their sequence: each goes by its own task, or the call is refused, never a guess."""

import pytest
import torch
from peft import get_peft_model
from tiny_adapters import NEED_TASKS
from torch import nn
from torch.utils.checkpoint import checkpoint

import loraweave
from loraweave import UserError
from loraweave.config import PRESETS
from loraweave.tuner import WeaveLinear

NAMES = ["a", "b", "c"]
BATCH, TOKENS, WIDTH = 4, 6, 8


class Experts(nn.Module):
    """Every token goes through the `top` experts of a router, collected by rank as Transformers' experts do it."""

    def __init__(self, name: str, count: int, top: int) -> None:
        super().__init__()
        self.name, self.top = name, top
        self.router = nn.Linear(WIDTH, count)
        self.add_module(name, nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        chosen = self.router(flat).topk(self.top).indices
        out = torch.zeros_like(flat)
        for number, expert in enumerate(getattr(self, self.name)):
            _, tokens = torch.where((chosen == number).T)  # by rank, then by token
            out.index_add_(0, tokens, expert(flat[tokens]))
        return out.view_as(x)


class Shared(nn.Module):
    """All tokens in their order, without their sequence, as in OPT."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(-1, WIDTH)).view_as(x)


class Model(nn.Module):
    def __init__(self, part: nn.Module, again: bool = False) -> None:
        super().__init__()
        self.blocks, self.again = nn.ModuleList([part]), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.again:
            return self.blocks[0](x)
        context_fn = loraweave.checkpoint_context(self)
        return checkpoint(self.blocks[0], x, use_reentrant=False, context_fn=context_fn)


def adapted(part: nn.Module, preset: str = "mtllora", again: bool = False) -> nn.Module:
    torch.manual_seed(0)
    targets = r".*\.(linear|experts\.\d+|parts\.\d+)"
    config = PRESETS[preset](r=2, task_names=NAMES, target_modules=targets, init_weights=False, lora_dropout=0.0)
    return get_peft_model(Model(part, again), config).double()


def each_alone(model: nn.Module, x: torch.Tensor, tasks: list[str]) -> torch.Tensor:
    return torch.cat([model(row[None], tasks=name) for row, name in zip(x, tasks, strict=True)])


def inputs(seed: int) -> torch.Tensor:
    return torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MIXED = ["a", "c", "b", "a"]


@pytest.mark.parametrize("preset", NEED_TASKS)
@pytest.mark.parametrize("name", ["experts", "parts"])
@pytest.mark.parametrize("grad", [False, True])
def test_experts_refuse_what_they_cannot_know(name: str, grad: bool, preset: str) -> None:
    model = adapted(Experts(name, count=3, top=1), preset)
    with torch.set_grad_enabled(grad):
        for seed in range(12):  # the number of an expert's tokens divides by the batch in some of them
            with pytest.raises(UserError, match=rf"layer blocks\.0\.{name}\.\d gets \d+ vectors.*exclude_modules"):
                model(inputs(seed), tasks=MIXED)


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, TOKENS)])
@pytest.mark.parametrize("name", ["experts", "parts"])
def test_experts_that_get_every_token_get_them_in_another_order(name: str, shape: tuple) -> None:
    model = adapted(Experts(name, count=2, top=2))
    tasks = torch.tensor([0, 2, 1, 0])[:, None].expand(BATCH, TOKENS)
    with pytest.raises(UserError, match="24 vectors"), torch.no_grad():
        model(inputs(0), tasks=tasks[:, 0] if len(shape) == 1 else tasks)


@pytest.mark.parametrize("tasks", ["c", ["c"] * BATCH, torch.full((BATCH, TOKENS), 2)], ids=["one", "rows", "tokens"])
@pytest.mark.parametrize("preset", PRESETS)
def test_experts_take_one_task_for_all(preset: str, tasks: object) -> None:
    model = adapted(Experts("experts", count=3, top=2), preset)
    for seed in range(4):
        x = inputs(seed)
        torch.testing.assert_close(model(x, tasks=tasks), each_alone(model, x, ["c"] * BATCH))


@pytest.mark.parametrize("preset", PRESETS)
def test_no_tokens_need_no_task_and_give_a_gradient_of_nothing(preset: str) -> None:
    model = adapted(Shared(), preset).train()
    for shape in [(0, TOKENS, WIDTH), (BATCH, 0, WIDTH)]:
        y = model(inputs(0).new_empty(shape))
        assert y.shape == shape
        y.sum().backward()
        assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("again", [False, True], ids=["once", "checkpointed"])
@pytest.mark.parametrize("preset", PRESETS)
def test_all_tokens_in_their_order_have_their_tasks(preset: str, again: bool) -> None:
    model = adapted(Shared(), preset, again)
    x = inputs(0)
    expected = each_alone(model, x, MIXED)
    expected.square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    y = model(x, tasks=MIXED)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    for parameter, grad in zip([p for p in model.parameters() if p.requires_grad], wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    with torch.no_grad():  # as generation expands the rows of its prompts
        torch.testing.assert_close(model(x.repeat_interleave(2, 0), tasks=MIXED)[::2], expected)


def test_rows_that_a_trainer_repeats_are_refused() -> None:
    """With gradients nobody says in which order they are."""
    with pytest.raises(UserError, match="48 vectors"):
        adapted(Shared())(inputs(0).repeat(2, 1, 1), tasks=MIXED)


def test_a_part_of_the_input_is_refused_where_the_layer_is_not_known_to_be_an_expert() -> None:
    class Half(Shared):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x[:, :3].reshape(-1, WIDTH))

    with pytest.raises(UserError, match="12 vectors"), torch.no_grad():
        adapted(Half())(inputs(0), tasks=MIXED)


@pytest.mark.parametrize(
    ("path", "routed"),
    [
        ("layers.0.mlp.experts.3.gate_proj", True),
        ("encoder.block.1.layer.1.mlp.experts.expert_7.wi", True),
        ("ffn.expert_2.fc1", True),
        ("mlp.shared_expert.fc1", False),
        ("mlp.shared_experts.gate_proj", False),
        ("mlp.gate", False),
    ],
)
def test_names_of_experts(path: str, routed: bool) -> None:
    def nested(names: list[str]) -> nn.Module:
        if not names:
            return nn.Linear(4, 4)
        owner = nn.Module()
        owner.add_module(names[0], nested(names[1:]))
        return owner

    config = PRESETS["mtllora"](r=2, task_names=NAMES, target_modules=[path])
    model = get_peft_model(nested(path.split(".")), config)
    (layer,) = (module for module in model.modules() if isinstance(module, WeaveLinear))
    assert layer.routed == routed
