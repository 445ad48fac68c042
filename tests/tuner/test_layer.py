"""The adapted layer: exact against the formula for all knobs, identity at the start, folding, merging."""

import peft
import pytest
import reference
import torch
from tiny_adapters import ON_INPUT, preset
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

import loraweave
from loraweave import UserError, WeaveConfig
from loraweave.config import PRESETS

NAMES = ["a", "b", "c"]


class OneLayer(nn.Module):
    """A model with no transformers in it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class Doubled(nn.Module):
    """Linear-like: has in_features and out_features, and is called."""

    in_features, out_features = 9, 7

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(9, 7)
        self.weight, self.bias = self.inner.weight, self.inner.bias

    def forward(self, x):
        return 2 * self.inner(x)


def adapted(config: WeaveConfig, layer: nn.Module | None = None, dtype=torch.float64):
    """(model, its WeaveLinear), in eval mode, weights fixed by the seed."""
    torch.manual_seed(0)
    config.target_modules = {"layer"}
    model = peft.get_peft_model(OneLayer(layer or nn.Linear(9, 7)).to(dtype), config).eval()
    return model, model.base_model.model.layer


@pytest.mark.parametrize("knobs", reference.combinations(NAMES), ids=lambda k: "-".join(str(v) for v in k.values()))
@pytest.mark.parametrize("per_token_ids", [False, True])
def test_every_combination_equals_the_formula(knobs: dict, per_token_ids: bool):
    config = WeaveConfig(task_names=NAMES, **knobs)
    model, layer = adapted(config)
    parameters = {n.split(".")[0]: q for n, q in layer.named_parameters() if n.startswith("weave_")}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, parameters.values()):  # a mask stays as it is
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    x = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([2, 0])
    per_token = ids[:, None].expand(2, 4)
    if per_token_ids:
        ids = per_token = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    trained = [q for q in parameters.values() if q.requires_grad]
    results = []
    expected = layer.base_layer(x) + reference.update(config, parameters, x, per_token)
    for y in (model(x, tasks=ids), expected):
        results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *trained])))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("layer", [nn.Linear(9, 7), nn.Linear(9, 7, bias=False), Conv1D(7, 9), Doubled()], ids=repr)
def test_the_start_is_the_base(name: str, layer: nn.Module):
    config = preset(name, task_names=NAMES, r=4)
    x = torch.randn(3, 5, 9)
    model, adapted_layer = adapted(config, layer, torch.float32)
    y, base = model(x, tasks="b"), adapted_layer.base_layer(x)
    if config.start == "random_anchored":
        torch.testing.assert_close(y, base, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(y, base)


@pytest.mark.parametrize("name", PRESETS)
def test_heads_part_after_a_few_steps_and_the_anchor_stays(name: str):
    config = preset(name, task_names=NAMES, r=4, num_heads=3)
    model, layer = adapted(config, dtype=torch.float32)
    model.train()
    frozen = {n: q.clone() for n, q in layer.named_parameters() if not q.requires_grad}
    trained = {n: q for n, q in layer.named_parameters() if q.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    moved = dict.fromkeys(trained, 0.0)
    for _ in range(6):
        x = torch.randn(6, 5, 9)
        model(x, tasks=[NAMES[i % 3] for i in range(6)]).pow(2).mean().backward()
        for n, q in trained.items():
            moved[n] += q.grad.abs().sum().item()
        optimizer.step()
        optimizer.zero_grad()
    B = layer.formula("default").B
    assert all(not torch.allclose(B[i], B[j]) for i in range(3) for j in range(i))
    assert all(total > 0 for total in moved.values()), moved
    assert all(torch.equal(dict(layer.named_parameters())[n], q) for n, q in frozen.items())
    assert ("weave_anchor_B.default" in frozen) == (config.start == "random_anchored")


def test_each_head_gets_a_dropout_mask_of_its_own():
    config = WeaveConfig(num_heads=2, head_dropout=True, lora_dropout=0.5, start="random_anchored", r=2)
    model, layer = adapted(config)
    model.train()
    with torch.no_grad():  # head 0 writes channel 0 alone, head 1 channel 1 alone
        layer.weave_B["default"].zero_()
        layer.weave_B["default"][0, 0], layer.weave_B["default"][1, 1] = 1.0, 1.0
        layer.weave_anchor_B["default"].zero_()
    x = torch.randn(2000, 9, dtype=torch.float64)
    out = model(x) - layer.base_layer(x)
    clean = x @ layer.weave_A["default"][0].T @ torch.ones(2, dtype=torch.float64) * 8 / 2
    heads = out[:, :2] / clean[:, None]
    assert (out[:, 2:].abs() < 1e-12).all()
    assert ((heads[:, 0] - heads[:, 1]).abs() > 1e-9).double().mean() > 0.7  # masks differ between heads
    assert out[:, :2].mean(0).sub(clean.mean()).abs().max() < 5 * clean.std() / 2000**0.5 * 2  # and are unbiased
    model.eval()
    torch.testing.assert_close((model(x) - layer.base_layer(x))[:, 0], clean)


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in ON_INPUT])
@pytest.mark.parametrize("layer", [nn.Linear(9, 7), Conv1D(7, 9)], ids=repr)
def test_merging_is_exact_and_unmerging_gives_the_bits_back(name: str, layer: nn.Module):
    config = preset(name, task_names=NAMES, r=3, init_weights=False)
    model, adapted_layer = adapted(config, layer)
    x = torch.randn(3, 5, 9, dtype=torch.float64)
    before = adapted_layer.base_layer.weight.clone()
    with loraweave.task(model, "b"):
        y = model(x)
        model.merge_adapter(safe_merge=True)
    assert not torch.equal(adapted_layer.base_layer.weight, before)
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)
    model.unmerge_adapter()
    assert torch.equal(adapted_layer.base_layer.weight, before)
    with loraweave.task(model, "b"):
        assert torch.equal(model(x), y)


@pytest.mark.parametrize("name", ["hydralora", "rlora"])
def test_an_update_that_depends_on_x_refuses_to_merge(name: str):
    model, layer = adapted(preset(name, r=3))
    before = layer.base_layer.weight.clone()
    with pytest.raises(UserError, match=r"weighs its heads by the input.*mlora"):
        model.merge_and_unload()
    assert torch.equal(layer.base_layer.weight, before)


def test_a_linear_like_layer_runs_but_does_not_merge():
    model, layer = adapted(WeaveConfig(r=2, init_weights=False), Doubled())
    before = layer.base_layer.weight.clone()
    with pytest.raises(UserError, match="layer layer is a Doubled"):
        model.merge_adapter()
    assert torch.equal(layer.base_layer.weight, before)


def test_a_weight_that_is_computed_or_packed_is_not_merged_into():
    packed = nn.Linear(9, 7)
    packed.weight = nn.Parameter(packed.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(9, 7))
    for base in (packed, computed):
        torch.manual_seed(0)
        model = peft.get_peft_model(OneLayer(base), WeaveConfig(r=2, init_weights=False, target_modules=["layer"]))
        before = base.weight.clone()
        with pytest.raises(UserError, match=r"layer layer holds its weight as \w+ of torch\.float.*unquantised base"):
            model.merge_adapter()
        assert torch.equal(base.weight.float(), before.float())


def test_a_single_vector_goes_through():
    model, _ = adapted(preset("mtllora", r=2, task_names=NAMES, init_weights=False))
    x = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(model(x, tasks="b"), model(x[None], tasks=["b"])[0])


def test_a_rank_above_the_layers_size_names_the_layer():
    with pytest.raises(UserError, match="layer layer: rank 10 is above its size 9 → 7; use r ≤ 9"):
        adapted(WeaveConfig(r=10))


def test_a_layer_that_is_not_linear_is_named():
    with pytest.raises(UserError, match="layer layer is a Embedding and cannot be adapted"):
        adapted(WeaveConfig(r=2), nn.Embedding(5, 9))


def test_adapters_in_float32_on_a_bfloat16_base_keep_the_bases_dtype():
    model, layer = adapted(WeaveConfig(r=2, init_weights=False), dtype=torch.bfloat16)
    assert layer.weave_A["default"].dtype == torch.float32
    x = torch.randn(2, 3, 9, dtype=torch.bfloat16)
    assert model(x).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16


def test_tasks_per_token_do_not_fit_a_layer_that_sees_one_vector_per_sequence():
    model, _ = adapted(preset("mtllora", r=2, task_names=NAMES))
    with pytest.raises(UserError, match=r"tasks \(3, 5\) are per token, but an adapted layer gets 3 vectors.*exclude_"):
        model(torch.randn(3, 9, dtype=torch.float64), tasks=torch.zeros(3, 5, dtype=torch.long))


class _Computed(TorchDispatchMode):
    """Notes how many elements every new tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made._is_view():
            self.sizes.append(made.numel())
        return made


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("ids", [[0, 0], [0, 1], [[0, 0, 1], [0, 1, 1]]])
def test_heads_of_tasks_that_are_not_there_cost_nothing(density: float, autocast: bool, ids: list) -> None:
    """Neither a mask on B nor another type is worked out for them."""
    names = [chr(97 + number) for number in range(16)]
    config = preset("own", r=8, up_density=density, task_names=names, target_modules=["layer"])
    model, layer = adapted(config, nn.Linear(10, 40), torch.float32)
    x = torch.randn(2, 3, 10)
    with torch.no_grad(), _Computed() as computed, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(x, tasks=torch.tensor(ids))
    assert max(computed.sizes) < layer.weave_B["default"].numel() / 4
