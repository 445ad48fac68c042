"""An adapter from a folder answers as when it was saved; a broken one, or one of another base, is refused by name."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import METHODS, adapted, logits

from loraweave import UserError
from loraweave.adapters.config import read_config
from loraweave.runs.attaching import attach
from loraweave.runs.filling import check_start

LAYER = "model.layers.0.mlp.up_proj"
KEY = f"base_model.model.{LAYER}"


def plain(base: Any, **knobs: Any) -> Any:
    """`base` with a random LoRA on it."""
    targets = {"target_modules": "all-linear"} | knobs
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **targets)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture
def save(tmp_path: Path, tiny_model: Callable) -> Callable[..., Path]:
    """save(method, **knobs) -> the folder of a random adapter of the tiny Llama."""

    def call(name: str, **knobs: Any) -> Path:
        model = plain(tiny_model(), **knobs) if name == "lora" else adapted(tiny_model(), name, **knobs)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return call


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def configure(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_vocabulary_of_another_size_is_named(save, tiny_model) -> None:
    folder = save("lora", target_modules=["q_proj"])
    words = "base_model.model.model.embed_tokens.weight"  # as PEFT saves it beside an adapter of a base that has grown
    change(folder, lambda tensors: tensors.update({words: torch.zeros(66, 32)}))
    with pytest.raises(UserError, match=rf"{re.escape(words)}.*66") as error:
        attach(tiny_model(), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*METHODS, "lora"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_answers_as_when_it_was_saved(tmp_path, tiny_model, name, architecture):
    model = plain(tiny_model(architecture)) if name == "lora" else adapted(tiny_model(architecture), name)
    tasks = None if name == "lora" else ["a", "b", "a"]
    expected = logits(model, tasks)
    model.save_pretrained(tmp_path)
    loaded = attach(tiny_model(architecture), tmp_path)
    assert torch.equal(logits(loaded, tasks), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_modules_trained_whole_are_loaded(save, tiny_model):
    folder = save("lora", target_modules=["q_proj"], modules_to_save=["norm"])
    change(folder, lambda tensors: tensors["base_model.model.model.norm.weight"].fill_(3.0))
    assert torch.equal(attach(tiny_model(), folder).base_model.model.model.norm.weight, torch.full((32,), 3.0))


@pytest.mark.parametrize("name", ["rlora", "lora"])
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: [t.pop(key) for key in list(t) if key.startswith(KEY)], rf"{LAYER} is missing"),
        (lambda t: t.pop(next(key for key in t if key.startswith(KEY))), rf"{LAYER}.*missing"),
        (lambda t: next(iter(t.values())).view(-1)[0].fill_(float("nan")), r"holds 1 values that are NaN"),
        (lambda t: t.update({key: t[key].to(torch.int8) for key in list(t)[:1]}), "I8, not floating-point"),
        (
            lambda t: t.update({k.replace("layers.0", "layers.7"): v.clone() for k, v in list(t.items()) if KEY in k}),
            r"model\.layers\.7\.mlp\.up_proj is unexpected: the base has no such layers",
        ),
        (
            lambda t: t.update({k: v[..., :16].contiguous() for k, v in list(t.items()) if v.shape[-1] == 48}),
            "down_proj is 16 → 32, in the base 48 → 32|down_proj",
        ),
    ],
)
def test_broken_tensors_are_named_and_the_base_is_given_back(save, tiny_model, name, edit, said):
    folder, base = save(name), tiny_model()
    before = [path for path, _ in base.named_modules()]
    change(folder, edit)
    with pytest.raises(UserError, match=said) as error:
        attach(base, folder)
    assert "\n" not in str(error.value)
    assert [path for path, _ in base.named_modules()] == before


@pytest.mark.parametrize("name", ["mlora", "lora"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target_modules": 5}, "target_modules must be names of modules, got 5"),
        ({"target_modules": "("}, r"'\(' is not a regular expression"),
        ({"target_modules": ["q_proj"]}, "unexpected: the base has no such layers to adapt"),
        ({"target_modules": "no_such_layer"}, "does not fit the base"),
        ({"peft_type": "LROA"}, "unknown peft_type 'LROA', did you mean 'LORA'"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"modules_to_save": ["haed"]}, "modules_to_save names 'haed'"),
        ({"modules_to_save": "head"}, "modules_to_save must be names"),
        ({"lora_dropout": "much"}, "lora_dropout must be a number, got 'much'"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number, got '16'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number, got nan"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"r": 2.5}, "r must be a whole number"),
        ({"rank_pattern": ["- a"]}, "rank_pattern must map"),
        ({"rank_pattern": {"(": 4}}, "is not a regular expression"),
        ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern\['q_proj'\] must be a number"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(save, tiny_model, name, values, said):
    folder = save(name)
    configure(folder, **values)
    with pytest.raises(UserError, match=said) as error:
        attach(tiny_model(), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"target_modules": r"(([a-z.0-9_]+)+)+!"}, {"rank_pattern": {r"(([a-z.0-9_]+)+)+!": 4}}]
)
def test_an_expression_that_never_ends_is_refused(save, tiny_model, values, monkeypatch):
    monkeypatch.setattr("loraweave.adapters.fields.PATIENCE", 0.5)
    folder = save("lora")
    configure(folder, **values)
    started = time.monotonic()
    with pytest.raises(UserError, match="does not come to an end"):
        attach(tiny_model(), folder)
    assert time.monotonic() - started < 10


def test_a_configuration_of_lora_over_weave_tensors(save, tiny_model):
    folder, other = save("mlora"), save("lora")
    (folder / "adapter_config.json").write_bytes((other / "adapter_config.json").read_bytes())
    with pytest.raises(UserError, match=re.escape("unexpected: an adapter of the type LORA has no such tensors")):
        attach(tiny_model(), folder)


@pytest.mark.parametrize("start", ["pissa_niter_4", "lora_ga"])
def test_an_adapter_of_a_base_that_its_start_changed_for_good_is_refused(
    save: Callable[..., Path], tiny_model: Callable, start: str
) -> None:
    """PEFT draws a start such as PiSSA's by few rounds anew when it loads it: the base would be changed otherwise."""
    folder = save("lora")
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, "init_lora_weights": start}))
    base = tiny_model()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    for use in (lambda: attach(base, folder), lambda: check_start(folder, read_config(folder), ["one"], base)):
        with pytest.raises(UserError, match=f"json: init_lora_weights is '{start}': it was trained on a base"):
            use()
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
