"""Exact switching: the base's bits come back whatever happened, and a merged expert is what PEFT merges."""

import copy
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_adapters import IDS, logits
from tiny_experts import bits
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from loraweave import UserError
from loraweave.adapters.file import AdapterFile
from loraweave.experts.fitting import Fitting
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.switching import Switcher, add_product

DTYPES = (torch.float32, torch.bfloat16)
ALL = ("small", "wide", "patterns")


@pytest.fixture
def base(base_folder: Path) -> Callable[..., Any]:
    def load(dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype).eval()

    return load


def switcher_of(model: Any, library: ExpertLibrary, **settings: Any) -> Switcher:
    fitting = Fitting.of(model)
    return Switcher(model, lambda name: fitting.pairs(library.load(name)), **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", [0, 60_000, 10**9])
def test_the_bits_come_back_after_a_thousand_random_switches(
    base: Callable, library: ExpertLibrary, dtype: torch.dtype, memory: int
) -> None:
    model = base(dtype)
    fitting = Fitting.of(model)
    pairs = {name: fitting.pairs(library.load(name)) for name in ALL}
    switcher = Switcher(model, pairs.__getitem__, memory)
    before = {None: bits(model)}
    own = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    draw = random.Random(0)
    for _ in range(1000):
        name = draw.choice([None, *ALL])
        switcher.switch(name)
        assert switcher.active == name
        assert before.setdefault(name, bits(model)) == bits(model)  # an expert's too are the same every time
        kept = switcher.bytes - (switcher._merged.bytes if switcher._merged else 0)
        assert kept <= memory
    assert len(set(before.values())) == 4
    switcher.switch("wide")
    switcher.close()
    assert bits(model) == before[None]
    assert own == {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_expert_is_what_peft_merges_and_costs_what_the_base_costs(
    base: Callable, library: ExpertLibrary, dtype: torch.dtype
) -> None:
    model = base(dtype)
    kinds = [type(module) for module in model.modules()]
    switcher = switcher_of(model, library)
    for name in (*ALL, "small"):
        merged = PeftModel.from_pretrained(base(dtype), str(library.expert(name).folder)).merge_and_unload()
        with switcher.using(name):
            mine = dict(model.named_parameters())
            for key, weight in merged.named_parameters():
                if dtype == torch.float32:
                    torch.testing.assert_close(mine[key], weight, rtol=1e-5, atol=1e-6)
                else:  # rounded once; a sum that lies between two numbers may go either way
                    assert (mine[key] != weight).float().mean() < 0.02
                    torch.testing.assert_close(mine[key], weight, rtol=2**-7, atol=1e-6)
            torch.testing.assert_close(logits(model, None), logits(merged, None), rtol=0.02, atol=0.02)
        assert [type(module) for module in model.modules()] == kinds
    assert (logits(model, None) - logits(base(dtype), None)).abs().max() > 0.01


def test_merged_weights_are_kept_within_their_memory_and_the_oldest_go_first(
    base: Callable, library: ExpertLibrary
) -> None:
    model, reads = base(), []
    fitting = Fitting.of(model)
    size = {}
    for name in ALL:
        switcher = Switcher(model, lambda name: fitting.pairs(library.load(name)))
        switcher.switch(name)
        size[name] = switcher.bytes
        switcher.close()

    def read(name: str) -> Any:
        reads.append(name)
        return fitting.pairs(library.load(name))

    switcher = Switcher(model, read, memory=size["patterns"] + size["wide"])
    for name in ("small", "wide", "patterns", "wide", "small", "patterns"):
        switcher.switch(name)
    assert reads == list(ALL)  # each once: the two that were left are kept
    assert switcher.kept == ["wide", "small"]
    switcher.memory = size["small"]
    switcher.switch("small")
    assert (switcher.kept, switcher.bytes) == ([], size["small"])  # patterns is larger than that
    assert reads == list(ALL)
    switcher.switch(None)
    assert switcher.kept == ["small"]
    switcher.forget(["small"])
    assert switcher.bytes == 0


class CutError(Exception):
    """Stands for whatever cuts a switch off: an interrupt, no memory left."""


def test_a_switch_that_is_cut_off_in_the_middle_of_merging_leaves_the_base(
    base: Callable, library: ExpertLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base()
    before = bits(model)
    switcher = switcher_of(model, library)
    switcher.switch("small")
    calls = []

    def cut(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise CutError
        add_product(*args)

    monkeypatch.setattr("loraweave.experts.switching.add_product", cut)
    with pytest.raises(CutError):
        switcher.switch("wide")
    assert (switcher.active, bits(model)) == (None, before)
    logits(model, None)
    switcher.switch("wide")
    switcher.switch(None)
    assert bits(model) == before


@pytest.mark.parametrize("to", ["wide", None])
def test_one_that_is_cut_off_between_two_layers_is_recognised_and_the_next_switch_mends_it(
    base: Callable, library: ExpertLibrary, monkeypatch: pytest.MonkeyPatch, to: str | None
) -> None:
    model = base()
    before = bits(model)
    fitting = Fitting.of(model)
    switcher = Switcher(model, {name: fitting.pairs(library.load(name)) for name in ALL}.__getitem__)
    switcher.switch("small")
    set_attribute, calls = nn.Module.__setattr__, []

    def cut(module: nn.Module, name: str, value: Any) -> None:
        if name == "weight":
            calls.append(name)
            if len(calls) == (7 if to else 2):  # of four that go back, and 14 that take their place
                raise CutError
        set_attribute(module, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__setattr__", cut)
        with pytest.raises(CutError):
            switcher.switch(to)
    assert bits(model) != before
    with pytest.raises(UserError, match="a switch was cut off"):
        model(input_ids=IDS)
    with pytest.raises(UserError, match="a switch was cut off"):
        model.generate(IDS, max_new_tokens=1)
    switcher.switch(None)
    assert bits(model) == before
    logits(model, None)


def test_what_cannot_be_merged_is_refused_and_the_model_stays_what_it_was(
    base: Callable, library: ExpertLibrary, make_lora: Callable, tmp_path: Path
) -> None:
    model = base()
    switcher = switcher_of(model, library)
    switcher.switch("small")
    before = bits(model)
    with pytest.raises(UserError, match="no expert 'bigger'"):
        switcher.switch("bigger")
    library.add(make_lora(tmp_path / "lora"), "cut")
    (library.expert("cut").folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        switcher.switch("cut")
    assert (switcher.active, bits(model)) == ("small", before)
    with pytest.raises(UserError, match="by another switcher, or manager"):
        switcher_of(model, library)
    switcher.close()
    switcher_of(model, library).close()
    with pytest.raises(UserError, match="has adapters already"):
        Switcher(get_peft_model(base(), LoraConfig(target_modules=["q_proj"])), dict)  # type: ignore[arg-type]


def test_layers_that_are_quantised_offloaded_or_used_twice_are_refused_by_name(
    base: Callable, library: ExpertLibrary
) -> None:
    model = base()
    fitting = Fitting.of(model)
    read = lambda name: fitting.pairs(library.load(name))  # noqa: E731
    offloaded = copy.deepcopy(model)
    offloaded.model.layers[1].self_attn.q_proj.to("meta")
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj is not here"):
        Switcher(offloaded, read).switch("small")
    shared = copy.deepcopy(model)
    shared.model.layers[1].self_attn = shared.model.layers[0].self_attn
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj is also model\.layers\.1\.self_attn\.q_proj"):
        Switcher(shared, read).switch("small")
    del model.model.layers[1].self_attn.q_proj
    with pytest.raises(UserError, match=r"the base has no layer model\.layers\.1\.self_attn\.q_proj"):
        Switcher(model, read).switch("small")
    packed = base()
    layer = packed.model.layers[0].self_attn.v_proj
    layer.weight = nn.Parameter((layer.weight.detach() * 100).to(torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"v_proj holds its weight as .*int8.*; in mixed batches"):
        Switcher(packed, read).switch("small")


def test_an_expert_of_another_base_is_refused(base: Callable, make_lora: Callable, tmp_path: Path) -> None:
    fitting = Fitting.of(base())
    deeper = LlamaForCausalLM(LlamaConfig(**{**base().config.to_dict(), "num_hidden_layers": 3}))
    deeper.save_pretrained(tmp_path / "deeper")
    lora = make_lora(tmp_path / "lora", base=tmp_path / "deeper")
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj is unexpected"):
        fitting.pairs(AdapterFile(lora))
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj is missing"):
        Fitting.of(deeper).pairs(AdapterFile(make_lora(tmp_path / "small")))


def test_a_tied_head_is_merged_and_the_embedding_it_is_tied_to_is_not(
    base: Callable, make_lora: Callable, library: ExpertLibrary, tmp_path: Path
) -> None:
    model = base()
    before, embedding = bits(model), model.model.embed_tokens.weight
    kept = embedding.detach().clone()
    with pytest.raises(UserError, match="save_embedding_layers=False"):
        library.add(make_lora(tmp_path / "whole", target_modules=["lm_head"]), "head")
    library.add(make_lora(tmp_path / "head", target_modules=["lm_head"], save_embedding_layers=False), "head")
    switcher = switcher_of(model, library)
    alone = logits(PeftModel.from_pretrained(base(), str(library.expert("head").folder)).eval(), None)
    switcher.switch("head")
    assert model.model.embed_tokens.weight is embedding
    assert torch.equal(embedding, kept)
    torch.testing.assert_close(logits(model, None), alone, rtol=1e-5, atol=1e-5)
    switcher.switch(None)
    assert model.lm_head.weight is embedding
    assert bits(model) == before


def test_conv1d_holds_its_weight_the_other_way(tiny_model: Callable, tmp_path: Path) -> None:
    lora = get_peft_model(
        tiny_model("gpt2"), LoraConfig(r=3, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    lora.save_pretrained(str(tmp_path / "lora"))
    model = tiny_model("gpt2")
    fitting = Fitting.of(model)
    Switcher(model, lambda _: fitting.pairs(AdapterFile(tmp_path / "lora"))).switch("it")
    torch.testing.assert_close(logits(model, None), logits(lora.eval(), None), rtol=1e-5, atol=1e-5)


def test_a_base_that_was_cast_or_trained_in_between_is_merged_anew(base: Callable, library: ExpertLibrary) -> None:
    model = base()
    switcher = switcher_of(model, library, memory=10**9)
    switcher.switch("small")
    model.to(torch.bfloat16)
    switcher.switch(None)
    assert bits(model) == bits(base().to(torch.bfloat16))
    switcher.switch("small")
    fresh = base().to(torch.bfloat16)
    switcher_of(fresh, library).switch("small")
    assert bits(model) == bits(fresh)
    switcher.switch(None)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(2)
    switcher.switch("small")
    switched = bits(model)
    switcher.switch(None)
    changed = copy.deepcopy(model)
    changed._forward_pre_hooks.clear()
    switcher_of(changed, library).switch("small")
    assert bits(changed) == switched


def test_an_expert_of_other_layers_by_now_is_merged_anew(base: Callable, library: ExpertLibrary, loras) -> None:
    model = base()
    switcher = switcher_of(model, library, memory=10**9)
    switcher.switch("small")
    switcher.switch(None)
    library.add(loras["wide"], "small", replace=True)
    model.to(torch.bfloat16)
    switcher.switch("small")
    fresh = base().to(torch.bfloat16)
    switcher_of(fresh, library).switch("small")
    assert bits(model) == bits(fresh)


def test_threads_that_use_different_experts_do_not_meet(base: Callable, library: ExpertLibrary) -> None:
    model = base()
    switcher = switcher_of(model, library, memory=10**9)
    expected = {}
    for name in (None, *ALL):
        switcher.switch(name)
        expected[name] = logits(model, None)
    wrong = []

    def ask(name: str | None) -> None:
        for _ in range(20):
            with switcher.using(name):
                if not torch.equal(logits(model, None), expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_that_is_in_use_is_not_changed_by_its_own_thread(base: Callable, library: ExpertLibrary) -> None:
    model = base()
    switcher = switcher_of(model, library, memory=10**9)
    with switcher.using("small"):
        merged = bits(model)
        for change in (
            lambda: switcher.switch("wide"),
            lambda: switcher.switch(None),
            lambda: switcher.forget(["patterns", "small"]),
            lambda: switcher.using("wide").__enter__(),
        ):
            with pytest.raises(UserError, match="expert 'small' is in use"):
                change()
            assert (switcher.active, bits(model)) == ("small", merged)
        switcher.forget(["wide"])
        with switcher.using("small"):
            pass
        with pytest.raises(UserError, match="is in use"):  # the inner block's end is not the outer one's
            switcher.switch("wide")
    with switcher.using(None), pytest.raises(UserError, match="the base is in use"):
        switcher.switch("wide")
    switcher.switch("wide")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(7, 5, 2), (900, 700, 3), (3, 70_000, 1)])
def test_a_product_is_added_in_parts_as_in_one(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    d, e, r = shape
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d, e, generator=generator).to(dtype)
    left, right = torch.randn(d, r, generator=generator), torch.randn(r, e, generator=generator)
    out = torch.empty_like(weight)
    add_product(out, weight, left, right)
    exact = (weight.double() + left.double() @ right.double()).to(dtype)
    torch.testing.assert_close(out, exact, rtol=2**-7 if dtype == torch.bfloat16 else 1e-3, atol=1e-5)
