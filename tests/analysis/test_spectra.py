"""Singular values from factors: those of the dense update, for every method, and what they say of its spread."""

import contextlib
import math

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny_adapters import METHODS, NAMES, NEED_TASKS, ON_INPUT
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import loraweave
from loraweave.adapters.file import AdapterFile
from loraweave.analysis.spectra import decompose, decompose_dense, decomposed, spectrum, summarise


def dense_updates(model, layer: str, name: str) -> list[torch.Tensor]:
    """ΔW of one layer by running it, for each task that the method tells apart."""
    module = model.base_model.model.get_submodule(layer)
    if isinstance(module, LoraLayer):
        return [module.get_delta_weight("default")]
    x, found = torch.eye(module.in_features, dtype=torch.float64), []
    for task in NAMES if name in NEED_TASKS else [None]:
        with torch.no_grad(), loraweave.task(model, task) if task else contextlib.nullcontext():
            found.append((module(x) - module.base_layer(x)).T)
    return found


# With routers of zeros all heads weigh alike, but where only the best of them speak.
@pytest.mark.parametrize("name", [*(n for n, c in METHODS.items() if c.top_k is None), "lora", "rslora", "dora"])
def test_singular_values_and_vectors_are_those_of_the_dense_update(saved, name):
    knobs = {"rank_pattern": {"up_proj": 5}, "alpha_pattern": {"up_proj": 3.0}}
    model, folder = saved(name, **knobs)
    adapter = AdapterFile(folder)
    assert len(adapter.sizes) == 14
    for layer in ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.k_proj"):
        dense = dense_updates(model, layer, name)
        by_task = [one for _, one in decomposed(adapter, layer, {})[1]]
        assert len(by_task) == (len(dense) if name in NEED_TASKS else 0)
        mean = decomposed(adapter, layer, {})[0]
        for found, expected in [*zip(by_task, dense, strict=False), (mean, sum(dense) / len(dense))]:
            values = torch.linalg.svdvals(expected)
            torch.testing.assert_close(found.values, values[: len(found.values)], rtol=1e-6, atol=1e-10)
            assert values[len(found.values) :].sum() < 1e-10
            torch.testing.assert_close(found.left * found.values @ found.right.T, expected, rtol=1e-6, atol=1e-10)
    size = adapter.sizes["model.layers.0.mlp.up_proj"]
    assert (size.d_out, size.d_in) == (48, 32)


@pytest.mark.parametrize("name", ON_INPUT)
def test_an_update_that_depends_on_x_is_taken_at_the_mean_weights_given(saved, name):
    model, folder = saved(name)
    layer = "model.layers.0.mlp.up_proj"
    module = model.base_model.model.get_submodule(layer)
    B = module.formula("default").B.detach()
    A = module.weave_A["default"].detach().expand(len(B), -1, -1)
    usage = torch.rand(2, len(B), generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = torch.einsum("n,nor,nrd->od", usage.double().mean(0), B, A)
    if name == "rlora":
        expected = expected - module.weave_anchor_B["default"].detach() @ module.weave_anchor_A["default"].detach()
    found = decomposed(AdapterFile(folder), layer, {layer: usage})[0]
    values = torch.linalg.svdvals(expected * module.knobs["default"].scaling)
    torch.testing.assert_close(found.values, values[: len(found.values)], rtol=1e-6, atol=1e-9)


def test_no_matrix_of_the_layer_s_size_is_made():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            Largest.elements = max([Largest.elements, *sizes])
            return result

    lora_A, lora_B = torch.randn(16, 4096), torch.randn(11008, 16)
    with Largest():
        decompose(lora_A, lora_B)
    assert Largest.elements == 16 * 11008


def test_rotated_factors_are_the_same_update():
    lora_A, lora_B, turn = torch.randn(4, 20), torch.randn(30, 4), torch.linalg.qr(torch.randn(4, 4))[0]
    one, other = decompose(lora_A, lora_B), decompose(turn.T @ lora_A, lora_B @ turn)
    torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((one.left.T @ other.left).abs(), torch.eye(4).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_a_dense_change_without_factors(shape):
    change = torch.randn(shape)
    found = decompose_dense(change, 5)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(change.double()), rtol=1e-8, atol=1e-8)
    left, values, right = torch.linalg.svd(change.double())
    best = left[:, :5] * values[:5] @ right[:5]
    torch.testing.assert_close(found.left * found.values[:5] @ found.right.T, best, rtol=1e-6, atol=1e-8)


def test_k_equal_directions_have_an_effective_rank_of_k():
    found = spectrum(torch.tensor([2.0] * 5 + [0.0] * 3))
    assert found["effective_rank"] == pytest.approx(5)
    assert found["entropy"] == pytest.approx(math.log(5))
    assert (found["top1"], found["top4"], found["top8"]) == pytest.approx((0.2, 0.8, 1))
    assert found["norm"] == pytest.approx(math.sqrt(20))


def test_all_directions_are_counted_and_the_largest_are_kept():
    found = spectrum(torch.ones(300))
    assert (found["directions"], len(found["singular_values"])) == (300, 256)
    assert found["effective_rank"] == pytest.approx(300)


def test_an_adapter_at_its_start_has_no_update(saved):
    for name in ("rlora", "mlora", "lora"):
        model, folder = saved(name)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B.default.weight"):
                parameter.data.zero_()
            if "weave_B" in key:  # the mean of the heads is what the anchor takes away
                module = model.get_submodule(key.removesuffix(".weave_B.default"))
                parameter.data = torch.stack([module.weave_anchor_B["default"].data] * len(parameter)).float()
                module.weave_anchor_B["default"].data = parameter.data[0]
                module.weave_anchor_A["default"].data = module.weave_A["default"].data[0]
        model.save_pretrained(folder)
        one = decomposed(AdapterFile(folder), "model.layers.0.mlp.up_proj", {})[0]
        assert one.is_zero
        assert one.rank == 0
    assert spectrum(torch.zeros(3))["effective_rank"] == 0


def test_the_summary_is_the_mean_over_layers_and_tasks():
    spectra = [
        {"run": "a", "module": module, "layer": layer, "task": task, **spectrum(torch.tensor(values))}
        for module, layer, task, values in [
            ("q", "0.q", "x", [1.0]),
            ("q", "0.q", "y", [1.0, 1.0]),
            ("v", "0.v", "x", [1.0, 1.0, 1.0]),
        ]
    ]
    rows = {row["module"]: row for row in summarise(spectra)}
    assert rows["q"]["effective_rank"] == pytest.approx(1.5)
    assert rows["all"]["effective_rank"] == pytest.approx(2)
    assert [rows[module]["layers"] for module in ("q", "v", "all")] == [1, 1, 2]


def test_what_has_no_update_is_no_part_of_the_summary():
    values = {"0.q": [1.0, 1.0], "1.q": [0.0, 0.0], "0.v": [0.0, 0.0]}
    spectra = [
        {"run": "a", "module": layer[-1], "layer": layer, "task": None, **spectrum(torch.tensor(each))}
        for layer, each in values.items()
    ]
    rows = {row["module"]: row for row in summarise(spectra)}
    assert rows["q"]["effective_rank"] == rows["all"]["effective_rank"] == pytest.approx(2)
    assert (rows["all"]["layers"], rows["v"]["effective_rank"], rows["v"]["layers"]) == (1, 0, 1)
