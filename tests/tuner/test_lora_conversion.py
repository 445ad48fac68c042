"""PEFT's conversion to LoRA: the very factors where the rank allows, the best approximation where not, no dense SVD."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, PeftModel, convert_to_lora, get_peft_model, save_as_lora, set_peft_model_state_dict
from peft.tuners.lora import conversion
from safetensors.torch import load_file
from tiny_adapters import FOLDING, NEED_TASKS, ON_INPUT, adapted, for_one_task, logits, method, randomize
from torch import nn

import loraweave
from loraweave import UserError
from loraweave.tuner import WeaveLinear, lora_conversion

# r, N·r, or r more for an anchor
NATIVE = {"weave": 4, "multilora": 12, "mlora": 8, "mtllora": 4, "moelora": 32, "own": 4, "lori": 4}


def as_lora(base: nn.Module, config, tensors: dict[str, torch.Tensor]) -> nn.Module:
    model = get_peft_model(base, config).eval()
    assert not set_peft_model_state_dict(model, tensors).unexpected_keys
    return model


def check_reads_alike_everywhere(folder: Path) -> None:
    """llama.cpp's converter reads `lora_alpha` and the tensors' own rank, and nothing else: its scaling must be 1."""
    config = json.loads((folder / "adapter_config.json").read_text())
    ranks = {t.shape[0] for n, t in load_file(folder / "adapter_model.safetensors").items() if "lora_A" in n}
    assert ranks == {config["r"]} == {config["lora_alpha"]}
    assert not any(config[field] for field in ("rank_pattern", "alpha_pattern", "use_rslora"))


@pytest.fixture
def no_dense_update(monkeypatch):
    """Fail when anybody makes a ΔW."""

    def refuse(*args):
        raise AssertionError("a d_out × d_in matrix was made")

    monkeypatch.setattr(WeaveLinear, "get_delta_weight", refuse)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("rank", [64, 1.0])
@pytest.mark.parametrize("name", FOLDING)
@pytest.mark.usefixtures("no_dense_update")
def test_conversion_is_exact_at_the_native_rank(tiny_model, name: str, rank: int | float, architecture: str):
    model = adapted(tiny_model(architecture), name)
    with for_one_task(model, name):
        expected = logits(model, tasks=None)
        assert model.supports_lora_conversion()
        config, tensors = convert_to_lora(model, rank)
    assert {t.shape[0] for n, t in tensors.items() if "lora_A" in n} == {NATIVE[name]}
    converted = as_lora(tiny_model(architecture), config, tensors)
    torch.testing.assert_close(logits(converted, tasks=None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "knobs",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": r".*layers\.1\.(self_attn\.[qv]_proj|mlp\.up_proj)"},
        {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
        {"target_modules": "all-linear", "layers_to_transform": [1]},
        {"target_modules": ["v_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"num_heads": 12},  # rank 48, above the smaller side of most layers
    ],
    ids=str,
)
@pytest.mark.parametrize("rank", [40, 64])
def test_a_saved_conversion_loads_as_lora(tiny_model, tmp_path: Path, knobs: dict, rank: int):
    model = adapted(tiny_model(), "multilora", **knobs)
    expected = logits(model)
    save_as_lora(tmp_path, model, rank)
    check_reads_alike_everywhere(tmp_path)
    assert PeftModel.from_pretrained(tiny_model(), tmp_path).peft_config["default"].peft_type == "LORA"
    converted = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    torch.testing.assert_close(logits(converted, tasks=None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 8, 0.5, 1.0])
@pytest.mark.parametrize("knobs", [{}, {"rank_pattern": {"q_proj": 2}}], ids=str)
def test_a_saved_conversion_has_one_rank_and_one_alpha(tiny_model, tmp_path: Path, rank: int | float, knobs: dict):
    model = adapted(tiny_model(), "weave", **knobs)
    save_as_lora(tmp_path, model, rank)
    check_reads_alike_everywhere(tmp_path)
    if rank in (8, 1.0):
        saved = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
        torch.testing.assert_close(logits(saved, tasks=None), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 50, 12), (50, 30, 12), (20, 40, 60)], ids=str)
def test_a_smaller_rank_is_the_best_approximation(shape: tuple[int, int, int]):
    d_out, d_in, native = shape
    torch.manual_seed(0)
    lora_A, lora_B = torch.randn(native, d_in, dtype=torch.float64), torch.randn(d_out, native, dtype=torch.float64)
    dense = lora_B @ lora_A
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    for rank in (1, 5, min(native, d_out, d_in) - 1):
        down, up = lora_conversion.truncate(lora_A, lora_B, rank)
        assert down.shape == (rank, d_in)
        assert up.shape == (d_out, rank)
        torch.testing.assert_close(up @ down, left[:, :rank] @ (values[:rank, None] * right[:rank]))
    for share in (0.3, 0.9, 0.999):
        down, _ = lora_conversion.truncate(lora_A, lora_B, share)
        kept = values[: down.shape[0]].square().sum() / values.square().sum()
        fewer = values[: down.shape[0] - 1].square().sum() / values.square().sum()
        assert fewer < share <= kept


def test_half_precision_and_an_update_of_zero_convert(tiny_model):
    model = get_peft_model(tiny_model(dtype=torch.bfloat16), method("multilora"), autocast_adapter_dtype=False)
    for rank in (2, 0.5):
        _, tensors = convert_to_lora(model, rank)
        assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
        assert all(t.isfinite().all() for t in tensors.values())


@pytest.mark.parametrize("name", ON_INPUT)
def test_heads_weighed_by_the_input_do_not_convert_and_say_why(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    with (
        pytest.warns(UserWarning, match="weighs its heads by the input"),
        pytest.raises(TypeError, match="WeaveLinear"),
    ):
        convert_to_lora(model, 8)


@pytest.mark.parametrize("name", NEED_TASKS)
def test_a_method_with_tasks_converts_for_one_of_them_alone(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    for tasks, reason in ((None, r"loraweave\.task.*a, b"), (["a", "b"], "one task at a time, got 2")):
        with (
            loraweave.task(model, tasks),
            pytest.warns(UserWarning, match=reason),
            pytest.raises(TypeError, match="WeaveLinear"),
        ):
            convert_to_lora(model, 8)
    with loraweave.task(model, "c"), pytest.warns(UserWarning, match="unknown task 'c'"), pytest.raises(TypeError):
        convert_to_lora(model, 8)


def test_layers_of_another_adapter_are_left_out(tiny_model):
    model = adapted(tiny_model(), "multilora", target_modules=["q_proj"])
    model.add_adapter("two", method("mlora", target_modules=["q_proj", "v_proj"]))
    randomize(model, 1, "two")
    expected = logits(model)
    config, tensors = convert_to_lora(model, 32)
    assert not any("v_proj" in n for n in tensors)
    torch.testing.assert_close(logits(as_lora(tiny_model(), config, tensors), None), expected, rtol=1e-4, atol=1e-5)


def test_other_methods_convert_as_before(tiny_model):
    config = LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config).eval()
    expected = logits(model, tasks=None)
    converted = as_lora(tiny_model(), *convert_to_lora(model, 32))
    torch.testing.assert_close(logits(converted, tasks=None), expected, rtol=1e-4, atol=1e-5)


def test_a_peft_without_the_function_still_converts(tiny_model, monkeypatch):
    original = getattr(conversion, lora_conversion.CONVERT_ONE_LAYER).__wrapped__
    monkeypatch.delattr(conversion, lora_conversion.CONVERT_ONE_LAYER)
    lora_conversion.register()
    assert not hasattr(conversion, lora_conversion.CONVERT_ONE_LAYER)
    monkeypatch.setattr(conversion, lora_conversion.CONVERT_ONE_LAYER, original, raising=False)
    model = adapted(tiny_model("gpt2"), "multilora")
    converted = as_lora(tiny_model("gpt2"), *convert_to_lora(model, 32))
    torch.testing.assert_close(logits(converted, tasks=None), logits(model), rtol=1e-3, atol=1e-4)


def test_merging_and_converting_agree_on_the_reason(tiny_model):
    model = adapted(tiny_model(), "moelora")
    with pytest.raises(UserError, match=r"loraweave\.task"):
        model.merge_adapter()
