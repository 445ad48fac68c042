"""Mixed batches: each sequence is answered as by its expert alone, whatever else is in the batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_adapters import IDS, logits
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import loraweave
from loraweave import UserError
from loraweave.adapters.file import AdapterFile
from loraweave.experts import mixed
from loraweave.experts.fitting import Fitting, Pairs
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.mixed import MixedBatches

ALL = ("small", "wide", "patterns")
WHO = ["wide", "base", "small", "patterns", "wide"]
BATCH = torch.randint(3, 64, (len(WHO), 7), generator=torch.Generator().manual_seed(1))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.fixture(params=["stacked", "each"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one of the two ways of adding updates."""
    monkeypatch.setattr(mixed, "_WORTH", {"cpu": 10**12 if request.param == "stacked" else -1})
    return request.param


@pytest.fixture
def pairs(base_folder: Path, library: ExpertLibrary) -> dict[str, Pairs]:
    fitting = Fitting.of(load(base_folder))
    return {name: fitting.pairs(library.load(name)) for name in ALL}


@pytest.fixture
def alone(base_folder: Path, library: ExpertLibrary) -> dict[str, Any]:
    """Each expert on a base of its own, by PEFT alone."""
    models = {"base": load(base_folder)}
    for name in ALL:
        models[name] = PeftModel.from_pretrained(load(base_folder), str(library.expert(name).folder)).eval()
    return models


@torch.no_grad()
def said(model: Any, ids: torch.Tensor, **call: Any) -> torch.Tensor:
    return model(input_ids=ids, **call).logits


def test_each_sequence_is_answered_as_by_its_expert_alone(
    base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any], way: str
) -> None:
    model = load(base_folder)
    beside = MixedBatches(model)
    beside.put(pairs)
    assert beside.names == ["base", *ALL]
    got = said(model, BATCH, tasks=WHO)
    for row, name in enumerate(WHO):
        torch.testing.assert_close(got[row], said(alone[name], BATCH)[row], rtol=1e-5, atol=1e-5)
    for name in ALL:
        torch.testing.assert_close(said(model, BATCH, tasks=name), said(alone[name], BATCH), rtol=1e-5, atol=1e-5)
    assert torch.equal(said(model, BATCH, tasks="base"), said(alone["base"], BATCH))
    numbers = torch.tensor([beside.names.index(name) for name in WHO])
    assert torch.equal(said(model, BATCH, tasks=numbers), got)
    with loraweave.task(model, WHO):
        assert torch.equal(said(model, BATCH), got)


def test_tokens_of_different_experts_may_stand_in_one_row(
    base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any], way: str
) -> None:
    model = load(base_folder)
    beside = MixedBatches(model)
    beside.put(pairs)
    row = BATCH.reshape(1, -1)
    numbers = torch.tensor([beside.names.index(name) for name in WHO]).repeat_interleave(BATCH.shape[1])[None]
    places = torch.arange(BATCH.shape[1]).repeat(len(WHO))[None]
    got = said(model, row, tasks=numbers, position_ids=places, use_cache=False).view(len(WHO), BATCH.shape[1], -1)
    for each, name in enumerate(WHO):  # packed: sequences are kept apart by their positions
        torch.testing.assert_close(got[each], said(alone[name], BATCH)[each], rtol=1e-5, atol=1e-5)


def test_generation_is_that_of_each_expert_alone(
    base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any]
) -> None:
    model = load(base_folder)
    MixedBatches(model).put(pairs)
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    padded = torch.cat([torch.zeros(len(WHO), 2, dtype=torch.long), BATCH], 1)
    mask = (padded != 0).long()
    got = model.generate(padded, attention_mask=mask, tasks=WHO, **how)
    beams = model.generate(padded, attention_mask=mask, tasks=WHO, num_beams=3, **how)
    for row, name in enumerate(WHO):
        ids, seen = padded[row, None], mask[row, None]
        assert torch.equal(got[row], alone[name].generate(input_ids=ids, attention_mask=seen, **how)[0])
        assert torch.equal(beams[row], alone[name].generate(input_ids=ids, attention_mask=seen, num_beams=3, **how)[0])


def test_experts_come_go_and_are_replaced(base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any]) -> None:
    model = load(base_folder)
    names = [name for name, _ in model.named_modules()]
    beside = MixedBatches(model)
    assert torch.equal(said(model, BATCH), said(alone["base"], BATCH))  # none is there: nobody need be named
    beside.put({"one": pairs["small"]})
    beside.put({"two": pairs["wide"]})
    first = said(model, BATCH, tasks=["one", "two", "one", "two", "one"])
    beside.put({"one": pairs["patterns"]})
    second = said(model, BATCH, tasks=["one", "two", "one", "two", "one"])
    torch.testing.assert_close(second[0], said(alone["patterns"], BATCH)[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(first[1], second[1], atol=1e-6)
    beside.remove(["one", "never"])
    with pytest.raises(UserError, match=r"unknown task 'one'.* base, two"):
        said(model, BATCH, tasks="one")
    with pytest.raises(UserError, match=r"needs to know the task.* base, two"):
        said(model, BATCH)
    beside.close()
    assert torch.equal(said(model, BATCH), said(alone["base"], BATCH))
    assert [name for name, _ in model.named_modules()] == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "generate" not in model.__dict__
    with pytest.raises(UserError, match="no Weave adapter"), loraweave.task(model, "two"):
        pass


def test_threads_ask_for_different_experts_at_once(base_folder: Path, pairs: dict[str, Pairs]) -> None:
    model = load(base_folder)
    MixedBatches(model).put(pairs)
    batches = [[ALL[(row + shift) % 3] for row in range(len(WHO))] for shift in range(3)]
    expected = [said(model, BATCH, tasks=who) for who in batches]

    def ask(number: int) -> bool:
        return torch.allclose(said(model, BATCH, tasks=batches[number % 3]), expected[number % 3], atol=1e-6)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(60)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(
    base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any], dtype: torch.dtype, way: str
) -> None:
    model = load(base_folder, dtype)
    MixedBatches(model).put(pairs)
    got = said(model, BATCH, tasks=WHO).float()
    for row, name in enumerate(WHO):
        expected = said(alone[name], BATCH)[row]
        assert (got[row] - expected).norm() < 0.05 * expected.norm()
    whole = load(base_folder)
    MixedBatches(whole).put(pairs)
    with torch.autocast("cpu", dtype):
        got = said(whole, BATCH, tasks=WHO).float()
    assert (got[0] - said(alone["wide"], BATCH)[0]).norm() < 0.05 * got[0].norm()


class Packed(nn.Module):
    """Stands for a quantised layer: no weight that could be added to, and an output of a type of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("packed", layer.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.packed.to(x.dtype)).to(torch.float64)


def test_layers_need_no_weight_that_could_be_merged_into(
    base_folder: Path, pairs: dict[str, Pairs], alone: dict[str, Any], way: str
) -> None:
    model = load(base_folder)
    for block in model.model.layers:
        block.self_attn.o_proj = Packed(block.self_attn.o_proj)
    model.double()
    MixedBatches(model).put(pairs)
    got = said(model, BATCH, tasks=WHO)
    for row, name in enumerate(WHO):
        torch.testing.assert_close(got[row].float(), said(alone[name], BATCH)[row], rtol=1e-4, atol=1e-4)


def test_a_layer_that_somebody_watches_is_not_written_into(base_folder: Path, pairs: dict[str, Pairs]) -> None:
    model = load(base_folder)
    kept: list[torch.Tensor] = []
    layer = model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, args, output: kept.append(output))
    MixedBatches(model).put(pairs)
    said(model, BATCH, tasks=WHO)
    untouched = load(base_folder)
    untouched.model.layers[0].self_attn.q_proj.register_forward_hook(lambda module, args, output: kept.append(output))
    said(untouched, BATCH)
    assert torch.equal(*kept)


def test_conv1d_and_odd_owners(tiny_model: Callable, tmp_path: Path) -> None:
    lora = get_peft_model(
        tiny_model("gpt2"), LoraConfig(r=3, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    lora.save_pretrained(str(tmp_path / "lora"))
    model = tiny_model("gpt2")
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)
    MixedBatches(model).put({"it": Fitting.of(model).pairs(AdapterFile(tmp_path / "lora"))})
    got = said(model, IDS, tasks=["it", "base", "it"])
    torch.testing.assert_close(got[0], logits(lora.eval(), None)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1], logits(tiny_model("gpt2"), None)[1], rtol=1e-5, atol=1e-5)


def test_what_an_expert_cannot_stand_beside_is_refused_and_nothing_changes(
    base_folder: Path, pairs: dict[str, Pairs]
) -> None:
    model = load(base_folder)
    with pytest.raises(UserError, match="has adapters already"):
        MixedBatches(get_peft_model(load(base_folder), LoraConfig(target_modules=["q_proj"])))  # type: ignore[arg-type]
    beside = MixedBatches(model)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(UserError, match=r"layer model\.layers\.0\.mlp\.\w+ is also model\.layers\.1"):
        beside.put({"small": pairs["small"], "wide": pairs["wide"]})
    assert beside.names == ["base"]
    assert not any(module._forward_hooks for module in model.model.modules())
    beside.put({"small": pairs["small"]})
    assert beside.names == ["base", "small"]


def test_who_does_not_fit_into_the_memory_leaves_nothing_behind(base_folder: Path, pairs: dict[str, Pairs]) -> None:
    beside = MixedBatches(load(base_folder))
    beside.put({"small": pairs["small"]})
    expected = said(beside.model, BATCH[:1], tasks=["small"])
    taken = iter([False, True])

    def full(*_: Any) -> Any:
        if next(taken):
            raise torch.OutOfMemoryError("no more")
        return MixedBatches._at(beside, *_)

    beside._at = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        beside.put({"wide": pairs["wide"], "small": pairs["patterns"]})
    assert beside.names == ["base", "small"]
    assert not any("wide" in place.pairs for place in beside._places.values())
    assert torch.equal(said(beside.model, BATCH[:1], tasks=["small"]), expected)
