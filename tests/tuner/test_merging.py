"""Merging whole models: exact, undone bit for bit, several adapters, and refusals that leave the model as it was."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_adapters import FOLDING, IDS, ON_INPUT, adapted, for_one_task, logits, method, randomize
from torch import nn
from transformers import AutoModelForCausalLM

from loraweave import UserError, task


def base_bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.clone() for n, p in model.named_parameters() if "weave_" not in n}


def same_bits(model: nn.Module, bits: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(p, bits[n]) for n, p in model.named_parameters() if n in bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FOLDING)
def test_unmerging_gives_the_base_s_very_bits_back(tiny_model, name: str, dtype: torch.dtype):
    model = adapted(tiny_model(dtype=dtype), name)
    bits, before = base_bits(model), logits(model)
    with for_one_task(model, name):
        expected = logits(model, tasks=None)
        model.merge_adapter(safe_merge=True)
    assert not same_bits(model, bits)
    merged = logits(model, tasks=None)
    assert merged.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    else:
        assert (merged - expected).float().norm() < 0.05 * expected.float().norm()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model(dtype=dtype), None))
    model.unmerge_adapter()
    assert same_bits(model, bits)
    assert torch.equal(logits(model), before)


def test_a_model_merged_for_one_task_answers_no_other(tiny_model):
    model = adapted(tiny_model(), "mtllora")
    first, second = model.peft_config["default"].task_names[:2]
    expected, of_second = logits(model, first), logits(model, second)
    with task(model, first):
        model.merge_adapter()
    torch.testing.assert_close(logits(model, first), expected, rtol=1e-4, atol=1e-5)
    for others in (second, [first, second], [1, 0]):
        with pytest.raises(UserError, match=f"merged for the task '{first}'.* for '{second}': call unmerge_adapter"):
            logits(model, others)
    with model.disable_adapter():
        logits(model, second)
    assert torch.equal(logits(model, second), of_second)


def test_unmerging_after_a_cast_keeps_the_new_dtype(tiny_model):
    model = adapted(tiny_model(), "mlora")
    model.merge_adapter()
    model.bfloat16()
    model.unmerge_adapter()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("one_by_one", [False, True])
def test_two_adapters_merge_and_unmerge_together(tiny_model, one_by_one: bool):
    model = adapted(tiny_model(), "multilora", target_modules=["q_proj", "up_proj"])
    model.add_adapter("two", method("mlora", target_modules=["q_proj", "v_proj"]))
    randomize(model, 1, "two")
    model.base_model.set_adapter(["default", "two"])
    bits, both = base_bits(model), logits(model)
    for adapters in [["default"], ["two"]] if one_by_one else [["default", "two"]]:
        model.merge_adapter(adapters)
    torch.testing.assert_close(logits(model), both, rtol=1e-4, atol=1e-5)
    assert set(model.get_model_status().merged_adapters) == {"default", "two"}
    model.unmerge_adapter()
    assert same_bits(model, bits)
    assert torch.equal(logits(model), both)


def test_merging_one_after_deleting_the_other(tiny_model):
    model = adapted(tiny_model(), "multilora")
    model.add_adapter("two", method("mlora"))
    randomize(model, 1, "two")
    model.set_adapter("two")
    two = logits(model)
    model.delete_adapter("default")
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["multilora", "rlora", "mtllora"])
def test_unloading_gives_the_base_back(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    base = model.unload()
    assert torch.equal(base(input_ids=IDS).logits, logits(tiny_model(), tasks=None))
    assert not any("weave" in n or "base_layer" in n for n in base.state_dict())
    assert not base._forward_pre_hooks


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FOLDING)
def test_a_safe_merge_of_a_broken_adapter_names_layer_and_adapter(tiny_model, name: str, bad: float):
    model = adapted(tiny_model(), name)
    bits = base_bits(model)
    with torch.no_grad():
        model.base_model.model.model.layers[0].self_attn.q_proj.weave_B["default"][:, 0] = bad
    with (
        for_one_task(model, name),
        pytest.raises(UserError, match=r"layer model\.layers\.0\.self_attn\.q_proj.*default"),
    ):
        model.merge_adapter(safe_merge=True)
    assert same_bits(model, bits)


def test_a_layer_merges_all_its_adapters_or_none(tiny_model):
    model = adapted(tiny_model(), "mlora")
    model.add_adapter("two", method("rlora"))
    bits = base_bits(model)
    with pytest.raises(UserError, match=r"'two' \(rlora\)"):
        model.merge_adapter(["default", "two"])
    assert same_bits(model, bits)
    assert model.get_model_status().merged_adapters == []


@pytest.mark.parametrize("name", ON_INPUT)
def test_a_refused_merge_and_unload_leaves_a_working_model(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    before = logits(model)
    with pytest.raises(UserError, match="weighs its heads by the input"):
        model.merge_and_unload()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", FOLDING)
def test_a_merged_model_with_tied_weights_saves_and_loads(tiny_model, tmp_path: Path, name: str):
    base = tiny_model()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    model = adapted(base, name)
    with for_one_task(model, name):
        expected = logits(model, tasks=None)
        merged = model.merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_merging_into_a_tied_head_leaves_the_embeddings(tiny_model, tmp_path: Path):
    base = tiny_model()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    embeddings = base.model.embed_tokens.weight
    model = adapted(base, "mlora", target_modules=["lm_head", "q_proj"])
    bits, expected = embeddings.clone(), logits(model)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert model.base_model.model.lm_head.base_layer.weight is embeddings
    assert torch.equal(embeddings, bits)
    with pytest.warns(UserWarning, match="no longer tied"):
        merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(loaded.model.embed_tokens.weight, bits)


def test_a_model_saved_while_merged_saves_the_adapter(tiny_model, tmp_path: Path):
    model = adapted(tiny_model(), "mlora")
    expected = logits(model)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_model(), tmp_path).eval()), expected)
