"""Weights that accelerate keeps elsewhere, on the CPU or on disk, and brings in layer by layer."""

import contextlib
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import PeftModel
from tiny_adapters import METHODS, NEED_TASKS, ON_INPUT, adapted, logits
from transformers import AutoModelForCausalLM

import loraweave

CPU = torch.device("cpu")


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("name", METHODS)
def test_an_offloaded_model_with_its_adapter_gives_the_same(tiny_model, tmp_path: Path, name: str, where: str):
    model = adapted(tiny_model(), name)
    expected = logits(model)
    cpu_offload(model, CPU) if where == "cpu" else disk_offload(model, str(tmp_path), CPU)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert torch.equal(logits(model), expected)
    if name in ON_INPUT:
        return
    with loraweave.task(model, "b") if name in NEED_TASKS else contextlib.nullcontext():
        expected = logits(model, tasks=None)
        model.merge_adapter()
    torch.testing.assert_close(logits(model, tasks=None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_loads_onto_a_dispatched_base(tiny_model, tmp_path: Path, name: str, low_cpu_mem_usage: bool):
    tiny_model().save_pretrained(tmp_path / "base")
    model = adapted(tiny_model(), name)
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", device_map="cpu")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", METHODS)
def test_a_new_adapter_on_an_offloaded_base_has_its_first_values(tiny_model, name: str):
    expected = logits(adapted(tiny_model(), name))
    model = adapted(cpu_offload(tiny_model(), CPU), name)
    assert {p.device.type for n, p in model.named_parameters() if "weave_" in n} == {"cpu"}
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
