"""Hot-swapping: another adapter's values in the same tensors, under torch.compile too; refused where they differ."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from tiny_adapters import IDS, METHODS, TASKS, adapted, logits

from loraweave import UserError


def saved(tiny_model, folder: Path, name: str, seed: int, **knobs) -> torch.Tensor:
    """Save a random adapter; its logits."""
    model = adapted(tiny_model(), name, seed, **knobs)
    model.save_pretrained(folder)
    return logits(model)


@pytest.mark.parametrize("name", METHODS)
def test_a_swapped_adapter_is_the_other_one_in_the_same_tensors(tiny_model, tmp_path: Path, name: str):
    one, two = (saved(tiny_model, tmp_path / str(seed), name, seed) for seed in (1, 2))
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "1", adapter_name="mine").eval()
    assert torch.equal(logits(model), one)
    before = {n: p.data_ptr() for n, p in model.named_parameters()}
    hotswap_adapter(model, tmp_path / "2", adapter_name="mine")
    assert torch.equal(logits(model), two)
    assert not torch.equal(one, two)
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == before
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model(), tasks=None))


@pytest.mark.parametrize("name", ["rlora", "mtllora"])
def test_a_compiled_model_is_not_compiled_again(tiny_model, tmp_path: Path, name: str):
    _, two = (saved(tiny_model, tmp_path / str(seed), name, seed) for seed in (1, 2))
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "1").eval()
    compiled = torch.compile(model, backend="eager")
    tasks = torch.tensor([0 if task == "a" else 1 for task in TASKS])
    with torch.no_grad():
        compiled(input_ids=IDS, tasks=tasks)
        hotswap_adapter(compiled, tmp_path / "2", adapter_name="default")
        with torch.compiler.set_stance("fail_on_recompile"):
            after = compiled(input_ids=IDS, tasks=tasks).logits
    torch.testing.assert_close(after, two, rtol=1e-5, atol=1e-6)


def test_layers_that_the_new_adapter_has_not_are_set_to_no_update(tiny_model, tmp_path: Path):
    few = saved(tiny_model, tmp_path, "rlora", 2, target_modules=["q_proj"])
    model = adapted(tiny_model(), "rlora", target_modules=["q_proj", "v_proj"])
    hotswap_adapter(model, tmp_path, adapter_name="default")
    torch.testing.assert_close(logits(model), few, rtol=1e-6, atol=1e-6)


def test_a_layer_of_which_a_tensor_is_missing_is_not_swapped(tiny_model, tmp_path: Path):
    """Set to zero like a layer that is not there, a router would weigh all heads alike."""
    saved(tiny_model, tmp_path, "hydralora", 2)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    del weights[next(name for name in weights if name.endswith("weave_router"))]
    save_file(weights, tmp_path / "adapter_model.safetensors")
    model = adapted(tiny_model(), "hydralora")
    before = logits(model)
    with pytest.raises(UserError, match=r"weave_router.default is missing .*: it is not whole"):
        hotswap_adapter(model, tmp_path, adapter_name="default")
    assert torch.equal(logits(model), before)


def test_what_cannot_be_swapped_is_refused_and_nothing_changes(tiny_model, tmp_path: Path):
    saved(tiny_model, tmp_path / "all", "multilora", 1)
    saved(tiny_model, tmp_path / "alpha", "multilora", 1, lora_alpha=3)
    saved(tiny_model, tmp_path / "tasks", "mtllora", 1, task_names=["b", "a"])
    model = adapted(tiny_model(), "multilora", target_modules=["q_proj"])
    before = logits(model)
    with pytest.raises(UserError, match=r"has no .*weave_.*load_adapter.*delete_adapter"):
        hotswap_adapter(model, tmp_path / "all", adapter_name="default")
    with pytest.raises(ValueError, match="incompatible: for lora_alpha"):
        hotswap_adapter(model, tmp_path / "alpha", adapter_name="default")
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="incompatible: for task_names"):
        hotswap_adapter(adapted(tiny_model(), "mtllora"), tmp_path / "tasks", adapter_name="default")
    whole = adapted(tiny_model(), "multilora")
    whole.merge_adapter()
    with pytest.raises(UserError, match="is merged"):
        hotswap_adapter(whole, tmp_path / "all", adapter_name="default")


def test_the_way_round_for_any_two_adapters(tiny_model, tmp_path: Path):
    other = saved(tiny_model, tmp_path, "mtllora", 1, task_names=["b", "a"])
    model = adapted(tiny_model(), "rlora")
    model.load_adapter(tmp_path, adapter_name="new")
    model.set_adapter("new")
    model.delete_adapter("default")
    assert torch.equal(logits(model), other)
