"""Methods by name: what they train, exactly how much, and at which rank that is as much as another."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from few import few
from peft import get_peft_model
from tiny_project import write_base
from transformers import LlamaConfig, LlamaForCausalLM

from loraweave.adapters.file import AdapterFile
from loraweave.adapters.tensors import trained_numbers
from loraweave.bases import empty_base
from loraweave.errors import UserError
from loraweave.estimate.counting import count_trainable, match_rank
from loraweave.runs.adapting import adapted
from loraweave.runs.methods import METHODS, choose_method

NAMES = ["a", "b"]
ADAPTERS = [name for name, method in METHODS.items() if method.trains == "adapter"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("bases") / "tiny"
    write_base(folder)
    return empty_base(folder)


@pytest.fixture(scope="module")
def larger() -> Any:
    """The shapes of a model with a hidden size of 256 and eight layers."""
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=8, num_attention_heads=4)
        )


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_what_is_trained(tiny_model: Callable, base: Any, name: str) -> None:
    model = tiny_model()
    with torch.device("meta"):
        empty = type(model)(model.config)
    with adapted(model, choose_method(name), NAMES, 0, keep_base=True) as trained:
        real = sum(p.numel() for p in trained.parameters() if p.requires_grad) if name != "base" else 0
    assert count_trainable(name, empty, NAMES) == real
    assert all(p.is_meta for p in empty.parameters())
    assert not any("weave" in n or "lora" in n for n, _ in empty.named_parameters())


def test_entries_that_a_mask_holds_at_zero_are_not_counted(tiny_model: Any, tmp_path: Path) -> None:
    model, sparse = tiny_model("llama"), {"name": "lori", "r": 4, "up_density": 0.15}
    with torch.device("meta"):
        empty = type(model)(model.config)
    with adapted(model, choose_method(sparse), NAMES, 0, keep_base=True) as trained:
        real = sum(int(p.sum()) for name, p in trained.named_parameters() if "weave_B_mask" in name)
        everything = sum(p.numel() for p in trained.parameters() if p.requires_grad)
        assert sum(trained_numbers(trained).values()) == real == pytest.approx(0.15 * everything, rel=0.01)
        trained.save_pretrained(tmp_path)
    assert count_trainable(sparse, empty, NAMES) == AdapterFile(tmp_path).parameters == real
    budget = count_trainable({"name": "lora", "r": 1}, empty)
    assert count_trainable(match_rank(sparse, empty, budget, NAMES), empty, NAMES) == pytest.approx(budget, rel=0.03)


@pytest.mark.parametrize("name", few(ADAPTERS))
def test_ranks_match_within_three_percent(larger: Any, name: str) -> None:
    # Eight experts of rank 1 train more than this LoRA does: a budget that all can meet.
    budget = count_trainable({"name": "lora", "r": 16}, larger, NAMES)
    matched = match_rank(name, larger, budget, NAMES)
    assert count_trainable(matched, larger, NAMES) == pytest.approx(budget, rel=0.03)
    before: Any = choose_method(name).peft_config(NAMES)
    after: Any = choose_method(matched).peft_config(NAMES)
    power = 0.5 if before.use_rslora else 1
    assert after.lora_alpha / after.r**power == pytest.approx(before.lora_alpha / before.r**power)


def test_some_layers_get_one_more_where_no_rank_fits_all(larger: Any) -> None:
    one, two = (count_trainable({"name": "lora", "r": r}, larger) for r in (1, 2))
    budget = (2 * one + two) // 3
    matched = match_rank("lora", larger, budget)
    assert count_trainable(matched, larger) == pytest.approx(budget, rel=0.03)
    layers = {name.split(".")[2] for name in matched["rank_pattern"]}
    assert len(layers) >= 6  # spread over the depth


def test_a_budget_out_of_reach_and_a_method_without_rank_are_refused(larger: Any) -> None:
    with pytest.raises(UserError, match=r"multilora: 1,000 trainable parameters cannot be matched; nearest [\d,]+"):
        match_rank("multilora", larger, 1000)
    with pytest.raises(UserError, match="full has no rank"):
        match_rank("full", larger, 1000)


def test_an_adapter_that_is_gone_on_from_has_a_rank_and_keeps_it(larger: Any, tmp_path: Path) -> None:
    adapter = get_peft_model(copy.deepcopy(larger), choose_method({"name": "lora", "r": 4}).peft_config())
    adapter.to_empty(device="cpu").save_pretrained(str(tmp_path))
    spec = {"adapter": str(tmp_path), "label": "on"}
    own = count_trainable({"name": "lora", "r": 4}, larger)
    assert match_rank(spec, larger, own) == {**choose_method(spec).spec}
    with pytest.raises(
        UserError, match=rf"method on: .* trains {own:,} parameters and 1,000 are wanted: name it first"
    ):
        match_rank(spec, larger, 1000)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lroa", "did you mean 'lora'"),
        ({"name": "lora", "rr": 3}, "did you mean 'r'"),
        ({"name": "full", "r": 3}, "takes none"),
        ({"name": "rlora", "r": 0}, "at least 1, got 0"),
        ({"name": "rlora", "r": True}, "whole number"),
        ({"name": "lora", "lora_alpha": 0}, "lora_alpha: Input should be greater than 0, got 0"),
        ({"name": "rlora", "alpha_pattern": {"q_proj": 0}}, "alpha_pattern: Input should be greater than 0"),
        ({"name": "rlora", "method": "x"}, "unknown field 'method'"),
        ({"name": "rlora", "label": "lora"}, "label 'lora' is the name of another method"),
        ({"name": "rlora", "label": "../rlora"}, r"label must be a word of letters, digits and . _ \+ -"),
        ({"name": "rlora", "label": 7}, "label must be a word"),
    ],
)
def test_what_is_wrong_with_a_method_is_one_line(spec: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_method(spec)


def test_a_label_stands_for_the_name_and_stays_with_a_matched_rank(larger: Any) -> None:
    spec = {"name": "rlora", "label": "rlora-plain", "start": "zero_up"}
    chosen = choose_method(spec)
    assert (chosen.name, chosen.method.name, chosen.spec) == ("rlora-plain", "rlora", spec)
    assert choose_method({"name": "rlora", "label": "rlora"}).name == "rlora"
    matched = match_rank(spec, larger, count_trainable({"name": "lora", "r": 16}, larger))
    assert matched.items() >= spec.items()
    assert choose_method(matched).peft_config(NAMES).start == "zero_up"


def test_values_out_of_range_name_the_method() -> None:
    with pytest.raises(UserError, match=r"^method rlora: .*lora_dropout"):
        choose_method({"name": "rlora", "lora_dropout": 1.5}).peft_config(NAMES)
    with pytest.raises(UserError, match=r"^method weave: "):
        choose_method({"gate": "tokn"}).peft_config(NAMES)


def test_a_weave_method_remembers_its_tasks() -> None:
    config: Any = choose_method("rlora").peft_config(NAMES)
    assert config.task_names == NAMES


def test_learning_rates_fall_with_the_width(base: Any, larger: Any) -> None:
    assert choose_method("lora").learning_rate(larger) == pytest.approx(METHODS["lora"].learning_rate * 8)
    assert choose_method("full").learning_rate(base) < choose_method("lora").learning_rate(base)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "lora", "target_modules": ["nope"]}, "method lora: Target modules"),
        ({"name": "lora", "init_lora_weights": "nonsense"}, "Unknown initialization"),
        ({"name": "rlora", "rank_pattern": {"down_proj": 5000}}, "rank 5000 is above its size"),
        ({"name": "mtllora", "rank_pattern": {"down_proj": 5000}}, "rank 5000 is above its size"),
    ],
)
def test_a_method_that_does_not_fit_gives_the_base_back(tiny_model: Callable, spec: Any, words: str) -> None:
    model = tiny_model()
    before = {name: id(module) for name, module in model.named_modules()}
    trainable = [p.requires_grad for p in model.parameters()]
    with pytest.raises(UserError, match=words), adapted(model, choose_method(spec), NAMES, 0, keep_base=True):
        pass
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert [p.requires_grad for p in model.parameters()] == trainable
    with adapted(model, choose_method("multilora"), NAMES, 0, keep_base=True) as trained:
        assert any(p.requires_grad for p in trained.parameters())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": ["q_proj", "v_porj"]}, "target_modules names 'v_porj', .* base, did you mean 'v_proj'"),
        ({"target_modules": ["q_proj", "norm.x"]}, "target_modules names 'norm.x', which is no adapted layer"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["lm_hed"]}, "exclude_modules names 'lm_hed'"),
        ({"exclude_modules": r".*\.vision\..*"}, "exclude_modules='.*vision.*' fits no module of the base"),
        ({"rank_pattern": {"q_prj": 2}}, "rank_pattern names 'q_prj', which fits no adapted layer, did you mean 'q_"),
        ({"target_modules": ["q_proj"], "alpha_pattern": {"v_proj": 2}}, "alpha_pattern names 'v_proj', which fits no"),
        ({"layers_to_transform": [0, 7], "target_modules": ["q_proj"]}, "layers_to_transform names 7, and no adapted"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["lora", "own"])
def test_names_that_fit_nothing_are_refused(tiny_model: Callable, name: str, fields: dict, words: str) -> None:
    """PEFT passes over them: what was meant would be trained otherwise than it was meant."""
    chosen = choose_method({"name": name, "r": 2, **fields})
    with pytest.raises(UserError, match=f"^method {name}: {words}") as error:  # noqa: SIM117
        with adapted(tiny_model(), chosen, NAMES, 0, keep_base=True):
            pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"], "rank_pattern": {r"layers\.1\..*": 3}},
        {"target_modules": r".*\.(q|v)_proj", "exclude_modules": r".*layers\.0\..*", "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "exclude_modules": ["lm_head"]},
    ],
    ids=str,
)
def test_names_that_fit_something_are_taken(tiny_model: Callable, fields: dict) -> None:
    for name in ("lora", "own"):
        with adapted(tiny_model(), choose_method({"name": name, "r": 2, **fields}), NAMES, 0, keep_base=True) as model:
            assert any(parameter.requires_grad for parameter in model.parameters())


def test_a_number_of_heads_for_a_layer_that_is_not_there_is_refused(tiny_model: Callable) -> None:
    chosen = choose_method({"name": "hydralora", "num_heads_pattern": {"q_proj": 2, "qproj": 3}})
    with pytest.raises(UserError, match=r"num_heads_pattern names 'qproj'.*did you mean 'q_proj'"):  # noqa: SIM117
        with adapted(tiny_model(), chosen, NAMES, 0, keep_base=True):
            pass


def test_a_presets_choice_of_heads_can_be_taken_back() -> None:
    assert choose_method("mola").peft_config(["a"]).top_k == 2
    assert choose_method({"name": "mola", "top_k": None}).peft_config(["a"]).top_k is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"init_lora_weights": "eva"}, "init_lora_weights: eva cannot be set: it is worked out from data before"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights: lora_ga cannot be set: .* PEFT would begin as without"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            ".*pissa_niter_16 cannot be set: .* drawn anew .*: take pissa$",
        ),
        ({"kasa_config": {}}, "kasa_config cannot be set: its tensors are no LoRA's"),
        ({"monteclora_config": {"num_samples": 4}}, "monteclora_config cannot be set"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices: Input should be greater than or equal to 0"),
        ({"trainable_token_indices": {"lm_head": [-1]}}, "trainable_token_indices: Input should be greater than"),
        ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config cannot be set"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens cannot be set: it counts from the last of these"),
    ],
)
def test_what_peft_leaves_to_whoever_trains_with_it_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"method lora: {words}"):
        choose_method({"name": "lora", **given})
    assert choose_method({"name": "lora", "init_lora_weights": "mica"})


def test_a_method_that_does_not_fit_a_base_is_one_line_where_it_is_counted(tiny_model: Callable) -> None:
    with torch.device("meta"):
        empty = type(tiny_model("mixtral"))(tiny_model("mixtral").config)
    with pytest.raises(UserError, match=r"method lora: .* set lora_dropout: 0"):
        count_trainable("lora", empty, NAMES)
