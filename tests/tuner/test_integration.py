"""Other ways in and out than get_peft_model: injection, transformers' own adapter methods, AutoPeft, tied weights."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from few import few
from peft import (
    AutoPeftModelForCausalLM,
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from tiny_adapters import METHODS, NEED_TASKS, adapted, logits, method, randomize
from transformers import AutoModelForCausalLM

import loraweave
from loraweave import UserError


@pytest.fixture
def saved_base(tiny_model, tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(path: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(path).eval()


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("name", few(METHODS))
def test_injection_and_state_dicts(tiny_model, name: str, low_cpu_mem_usage: bool):
    model = inject_adapter_in_model(method(name), tiny_model()).eval()
    randomize(model)
    expected, tensors = logits(model), get_peft_model_state_dict(model)
    other = inject_adapter_in_model(method(name), tiny_model(), low_cpu_mem_usage=low_cpu_mem_usage).eval()
    result = set_peft_model_state_dict(other, tensors, low_cpu_mem_usage=low_cpu_mem_usage)
    assert not result.unexpected_keys
    assert torch.equal(logits(other), expected)
    by_tensors = inject_adapter_in_model(method(name), tiny_model(), state_dict=tensors).eval()
    set_peft_model_state_dict(by_tensors, tensors)
    assert torch.equal(logits(by_tensors), expected)


@pytest.mark.parametrize("name", few(METHODS))
def test_transformers_adds_saves_loads_and_switches_adapters(saved_base: Path, tmp_path: Path, name: str):
    model = load(saved_base)
    base = logits(model, tasks=None)
    model.add_adapter(method(name, lora_dropout=0.0), adapter_name="one")
    randomize(model, 0, "one")
    one = logits(model)
    assert not torch.equal(one, base)
    model.disable_adapters()
    assert torch.equal(logits(model, tasks=None), base)
    model.enable_adapters()
    assert torch.equal(logits(model), one)
    model.save_pretrained(tmp_path / "one")
    adapted(load(saved_base), "weave", seed=3).save_pretrained(tmp_path / "two")

    again = load(saved_base)
    again.load_adapter(tmp_path / "one", adapter_name="mine")
    assert torch.equal(logits(again), one)
    again.load_adapter(tmp_path / "two", adapter_name="two")
    again.set_adapter("two")
    two = logits(again)
    assert not torch.equal(one, two)
    again.set_adapter("mine")
    again.delete_adapter("two")
    assert torch.equal(logits(again), one)
    with loraweave.task(again, "b"):
        length = {"min_new_tokens": 2, "max_new_tokens": 2}  # a random model may end at once
        assert again.generate(input_ids=torch.arange(3, 8)[None], do_sample=False, **length).shape == (1, 7)


@pytest.mark.parametrize("name", few(METHODS))
def test_automatic_loading_by_the_adapter_s_folder(saved_base: Path, tmp_path: Path, name: str):
    model = adapted(load(saved_base), name)
    model.save_pretrained(tmp_path / "adapter")
    for loaded in (
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter"),
        PeftModel.from_pretrained(load(saved_base), tmp_path / "adapter", low_cpu_mem_usage=True),
    ):
        assert torch.equal(logits(loaded.eval()), logits(model))


@pytest.mark.parametrize("name", few(METHODS))
def test_a_head_tied_to_the_embeddings_can_be_adapted(tiny_model, tmp_path: Path, name: str):
    def tied():
        base = tiny_model()
        base.config.tie_word_embeddings = True
        base.tie_weights()
        return base

    model = adapted(tied(), name, target_modules=["lm_head", "q_proj"])
    embeddings = model.base_model.model.model.embed_tokens.weight
    assert model.base_model.model.lm_head.base_layer.weight is embeddings
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(tied(), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    before = embeddings.clone()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tied(), tasks=None))
    assert torch.equal(embeddings, before)


@pytest.mark.parametrize("name", few(METHODS))
def test_assisted_generation(tiny_model, name: str):
    torch.manual_seed(1)
    model = adapted(tiny_model(), name)
    prompt = torch.arange(3, 10)[None]
    options = {"max_new_tokens": 8, "do_sample": False}
    for task in ("a", "b"):
        alone = model.generate(input_ids=prompt, tasks=task, **options)
        assistants = {"another": tiny_model("qwen2"), "its own base": model.base_model.model}
        for assistant in assistants.values():
            helped = model.generate(input_ids=prompt, tasks=task, assistant_model=assistant, **options)
            assert torch.equal(helped, alone)
    assistant = adapted(tiny_model(), "moelora", seed=3)  # one with tasks of its own is told them in its own context
    with loraweave.task(assistant, "b"):
        assert torch.equal(model.generate(input_ids=prompt, tasks="b", assistant_model=assistant, **options), alone)


@pytest.mark.parametrize("name", NEED_TASKS)
def test_every_way_to_generate_takes_tasks(tiny_model, name: str):
    prompt = torch.arange(3, 13).view(2, 5)
    options = {"max_new_tokens": 4, "do_sample": False}
    model = adapted(tiny_model(), name)
    expected = [model.generate(input_ids=prompt, tasks=tasks, **options) for tasks in (["a", "b"], "b")]
    assert not torch.equal(*expected)
    plain = adapted(tiny_model(), name, task_type=None)
    assert type(plain) is PeftModel
    injected = inject_adapter_in_model(method(name), tiny_model()).eval()
    randomize(injected)
    for way in (plain, injected, plain.base_model, copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        for tasks, result in zip((["a", "b"], "b"), expected, strict=True):
            assert torch.equal(way.generate(input_ids=prompt, tasks=tasks, **options), result)
            with loraweave.task(way, tasks):
                assert torch.equal(way.generate(input_ids=prompt, **options), result)
    with pytest.raises(UserError, match="a, b"):
        plain.generate(input_ids=prompt, **options)
    base = plain.unload()
    with pytest.raises(ValueError, match="tasks"):
        base.generate(input_ids=prompt, tasks="b", **options)


@pytest.mark.parametrize("name", NEED_TASKS)
def test_generation_takes_one_task_per_sequence(tiny_model, name: str):
    model = adapted(tiny_model(), name)
    prompt = torch.arange(3, 13).view(2, 5)
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(input_ids=prompt, tasks=["b", "a"], **options)
    assert not torch.equal(expected, model.generate(input_ids=prompt, tasks=["a", "b"], **options))
    tokens = torch.tensor([[1], [0]]).expand(2, 5)
    assert torch.equal(model.generate(input_ids=prompt, tasks=tokens, **options), expected)
    tokens = tokens.clone()
    tokens[1, 3] = 1
    with pytest.raises(
        UserError, match=r"one task per sequence.*change within sequence 1: pass a LongTensor \(batch,\)"
    ):
        model.generate(input_ids=prompt, tasks=tokens, **options)
