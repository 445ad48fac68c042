"""An adapter's folder is read as it was saved, and what is broken in it is named before anything is made of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import METHODS, adapted, method

from loraweave import UserError
from loraweave.adapters.file import AdapterFile, Size, natural

LAYER = "model.layers.0.mlp.up_proj"
KEY = f"base_model.model.{LAYER}"


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Callable) -> Callable[..., Path]:
    """saved(method, **knobs) -> the folder of an adapter with random tensors."""

    def save(name: str, **knobs: Any) -> Path:
        folder = tmp_path / name
        if name == "lora":
            config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
            peft.get_peft_model(tiny_model(), config).save_pretrained(folder)
        else:
            adapted(tiny_model(), name, **knobs).save_pretrained(folder)
        return folder

    return save


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Rewrite the adapter's tensors."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return folder


@pytest.mark.parametrize("name", [*METHODS, "lora"])
def test_reads_what_was_saved(saved: Callable, name: str):
    adapter = AdapterFile(saved(name))
    adapter.check_values()
    assert adapter.sizes[LAYER] == Size(d_out=48, d_in=32)
    assert list(adapter.sizes) == sorted(adapter.sizes, key=natural)
    assert not adapter.others
    x = torch.randn(3, 32, dtype=torch.float64)
    assert adapter.formula(LAYER).update(x, pick=lambda table: table[0]).shape == (3, 48)


@pytest.mark.parametrize("name", [*METHODS, "lora"])
def test_every_missing_tensor_is_named(saved: Callable, name: str):
    folder = saved(name)
    tensors = load_file(folder / "adapter_model.safetensors")
    for key in [key for key in tensors if key.startswith(KEY)]:
        kept = {k: v for k, v in tensors.items() if k != key}
        save_file(kept, folder / "adapter_model.safetensors")
        with pytest.raises(UserError, match=r"missing") as error:
            AdapterFile(folder)
        assert LAYER in str(error.value)
        assert "\n" not in str(error.value)


def test_unexpected_tensors_are_named(saved: Callable):
    def router(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{KEY}.weave_router"] = torch.zeros(3, 32)

    with pytest.raises(UserError, match=r"up_proj\.weave_router is unexpected.*gate='channel'"):
        AdapterFile(change(saved("multilora"), router))
    with pytest.raises(UserError, match=r"something\.weight is unexpected"):
        AdapterFile(change(saved("mlora"), lambda tensors: tensors.update({"something.weight": torch.zeros(2)})))


def test_a_lora_configuration_over_weave_tensors_is_refused(saved: Callable):
    folder, other = saved("mlora"), saved("lora")
    (folder / "adapter_config.json").write_bytes((other / "adapter_config.json").read_bytes())
    with pytest.raises(UserError, match=r"weave_.* unexpected: an adapter of the type LORA has no such tensors"):
        AdapterFile(folder)


@pytest.mark.parametrize(
    ("tensor", "value", "said"),
    [
        ("weave_B", torch.zeros(3, 48, 2), r"weave_B is \(3, 48, 2\).*should be \(3, 48, 4\)"),
        ("weave_B", torch.zeros(48, 4), "three dimensions"),
        ("weave_task_logits", torch.zeros(5, 3), r"weave_task_logits is \(5, 3\).*should be \(2, 3\)"),
        ("weave_A", torch.zeros(1, 4, 32, dtype=torch.int8), "weave_A holds I8, not floating-point"),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_named(saved: Callable, tensor: str, value: torch.Tensor, said: str):
    folder = change(saved("mtllora"), lambda tensors: tensors.update({f"{KEY}.{tensor}": value}))
    with pytest.raises(UserError, match=said):
        AdapterFile(folder)


@pytest.mark.parametrize(("name", "frozen"), [("own", 0), ("lori", 4 * 32), ("rlora", 4 * (32 + 48))])
def test_what_is_frozen_is_no_trained_number(saved: Callable, name: str, frozen: int):
    """LoRI's A, R-LoRA's anchor; of one layer, 32 → 48."""
    adapter = AdapterFile(saved(name, target_modules=["model.layers.0.mlp.up_proj"]))
    everything = sum(torch.Size(shape).numel() for shape in adapter.names.values())
    assert adapter.parameters == everything - frozen


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(saved: Callable, bad: float):
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{KEY}.weave_B"][0, 0, 0] = bad

    adapter = AdapterFile(change(saved("rlora"), spoil))
    with pytest.raises(UserError, match=r"up_proj\.weave_B holds 1 values that are NaN or infinite"):
        adapter.check_values()
    with pytest.raises(UserError, match="NaN"):
        adapter.formula(LAYER)


def test_a_rank_that_the_configuration_does_not_have(saved: Callable):
    folder = saved("lora")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 8}))
    with pytest.raises(UserError, match="rank should be 8"):
        AdapterFile(folder)


def test_a_pickle_is_never_read(saved: Callable):
    folder = saved("mlora")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="a pickle, which may run code"):
        AdapterFile(folder)


def test_modules_trained_whole_are_no_updates(tmp_path: Path, tiny_model: Callable):
    config = method("mlora", modules_to_save=["lm_head"])
    peft.get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
    adapter = AdapterFile(tmp_path)
    assert adapter.others == ["base_model.model.lm_head.weight"]
    assert "lm_head" not in adapter.sizes


def test_layers_are_compared_with_the_base(saved: Callable):
    adapter = AdapterFile(saved("mlora"))
    adapter.check_fits(adapter.sizes)
    with pytest.raises(UserError, match=r"extra is missing"):
        adapter.check_fits({**adapter.sizes, "extra": Size(3, 3)})
    with pytest.raises(UserError, match=rf"{LAYER} is unexpected"):
        adapter.check_fits({layer: size for layer, size in adapter.sizes.items() if layer != LAYER})
    with pytest.raises(UserError, match=r"32 → 48, in the base 32 → 64"):
        adapter.check_fits({**adapter.sizes, LAYER: Size(64, 32)})


@pytest.mark.parametrize("name", ["lora", "rlora"])
def test_a_field_that_peft_would_pass_over_is_refused_where_it_says_something(saved: Callable, name: str):
    folder = saved(name)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_squares": False, "squares_config": None, "squared": []}))
    AdapterFile(folder)
    path.write_text(json.dumps({**config, "use_rslorra": True}))
    with pytest.raises(UserError, match=r"use_rslorra is True, .* did you mean 'use_rslora'"):
        AdapterFile(folder)
