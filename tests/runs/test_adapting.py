"""A base lent to an adapter comes back as it was, whatever its start did to it."""

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave.errors import Notice, UserError
from loraweave.evaluation.beside import untouched
from loraweave.runs.adapting import adapted, take_off
from loraweave.runs.attaching import attach
from loraweave.runs.methods import choose_method
from loraweave.serving.voices import why_alone

CHANGING = ["pissa", "olora"]


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("start", CHANGING)
def test_a_start_that_changes_the_base_is_taken_back(tiny_model: Callable, tmp_path: Path, start: str) -> None:
    base = tiny_model()
    before = bits(base)
    method = choose_method({"name": "lora", "r": 4, "init_lora_weights": start})
    with adapted(base, method, ["one"], seed=0, keep_base=True) as model:
        inside = model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.clone()
        model.save_pretrained(str(tmp_path / "adapter"))
    assert not torch.equal(inside, before["model.layers.0.mlp.up_proj.weight"])
    assert same(bits(base), before)

    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = base(ids).logits
        seen = []
        for _ in range(2):  # a second time on a base that was given back
            model = attach(base, tmp_path / "adapter")
            seen.append(model(ids).logits)
            assert same(bits(take_off(model)), before)
        torch.testing.assert_close(seen[0], plain, rtol=1e-4, atol=1e-4)  # untrained, it is the base
        torch.testing.assert_close(seen[1], seen[0])


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("lora", {"bias": "all"}),
        ("lora", {"bias": "lora_only"}),
        ("own", {"bias": "weave_only"}),
        ("lora", {"modules_to_save": ["lm_head"]}),
        ("own", {"modules_to_save": ["norm"]}),
        ("multilora", {"modules_to_save": ["mlp"]}),
    ],
)
def test_what_is_trained_of_the_base_itself_is_taken_back(
    tiny_model: Callable, tmp_path: Path, name: str, trained: dict
) -> None:
    """Others of a comparison are trained on it afterwards."""
    base = tiny_model("qwen2")
    before, modules = bits(base), dict(base.named_modules())
    with adapted(base, choose_method({"name": name, **trained}), ["one"], seed=0, keep_base=True) as model:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * parameter.requires_grad
        model.save_pretrained(str(tmp_path / "adapter"))
    assert same(bits(base), before)
    assert dict(base.named_modules()) == modules
    assert same(bits(take_off(attach(base, tmp_path / "adapter"))), before)
    assert dict(base.named_modules()) == modules


def test_so_it_is_where_a_later_layer_is_refused(tiny_model: Callable) -> None:
    base = tiny_model()
    before = bits(base)
    method = choose_method({"name": "lora", "r": 4, "init_lora_weights": "pissa", "target_modules": ["q_proj", "norm"]})
    with pytest.raises(UserError), adapted(base, method, ["one"], seed=0, keep_base=True):
        pass
    assert same(bits(base), before)


def test_a_vocabulary_that_lies_beside_an_adapter_is_taken_back(tiny_model: Callable, tmp_path: Path) -> None:
    """PEFT loads it over the base's own, which others are scored on afterwards."""
    base = tiny_model()
    before = bits(base)
    changed = tiny_model()
    with torch.no_grad():
        changed.lm_head.weight += 1
        changed.model.embed_tokens.weight += 1
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM")
    get_peft_model(changed, config).save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    model = attach(base, tmp_path / "adapter")
    assert not torch.equal(model.get_output_embeddings().weight, before["lm_head.weight"])
    loaded = tiny_model()
    with untouched(model, lambda: loaded) as found:
        assert found is loaded
    assert why_alone(model) == "it was saved with a vocabulary that is not the base's"
    assert same(bits(take_off(model)), before)


@pytest.mark.parametrize("method", ["lora", "own"])
def test_an_adapter_on_the_head_is_refused(tiny_model: Callable, method: str) -> None:
    base = tiny_model()
    before = bits(base)
    chosen = choose_method({"name": method, "target_modules": ["q_proj", "lm_head"]})
    refused = pytest.raises(UserError, match=r"target_modules reaches lm_head, .*modules_to_save: \[lm_head\]")
    with refused, adapted(base, chosen, ["one"], seed=0, keep_base=True):
        pass
    assert same(bits(base), before)


@pytest.mark.parametrize("start", CHANGING)
def test_what_stands_beside_such_an_adapter_is_the_real_base(tiny_model: Callable, start: str) -> None:
    """Switching the adapter off leaves the changed weights."""
    config = LoraConfig(r=4, init_lora_weights=start, target_modules="all-linear", task_type="CAUSAL_LM")
    loaded = tiny_model()
    with untouched(get_peft_model(tiny_model(), config), lambda: loaded) as found:
        assert found is loaded


def test_what_peft_adapts_as_weights_is_known_by_the_names_that_it_goes_by(tiny_model: Callable) -> None:
    """Transformers fuses Mixtral's experts; people and older adapters name their layers."""
    base = tiny_model("mixtral")
    layers = r"set lora_dropout: 0, or name layers alone, target_modules: \[k_proj, o_proj, q_proj, v_proj\]"
    with pytest.raises(UserError, match=f"method lora: .* the experts of this base; {layers}"), on(base, {}):
        pass
    with pytest.raises(UserError, match=r"method dora: .* this base; name layers alone"), on(base, {}, "dora"):
        pass
    given = {"lora_dropout": 0.0, "target_modules": ["q_proj", "w1", "w2", "w3"], "rank_pattern": {"down_proj": 2}}
    before = copy.deepcopy(given)
    with on(base, given) as model:
        trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and ".1.mlp." in name}
    assert given == before
    assert sorted(shape[0] for name, shape in trained.items() if ".lora_A." in name) == [2 * 4, 8 * 4]  # r, by experts


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target_parameters": ["experts.gate"]}, "target_parameters names 'experts.gate', which is no weight"),
        ({"exclude_modules": ["gate"]}, r"exclude_modules leaves out model.layers.0.mlp.gate, and PEFT adapts it all"),
        ({"exclude_modules": r".*\.1\.mlp\.experts"}, "exclude_modules leaves out model.layers.1.mlp.experts"),
        ({"target_modules": ["q_proj", "w2"], "layers_to_transform": [1]}, "leaves out model.layers.0.mlp.experts"),
    ],
)
def test_what_peft_would_pass_over_of_weights_is_refused(tiny_model: Callable, given: dict, words: str) -> None:
    base = tiny_model("mixtral")
    before = bits(base)
    with pytest.raises(UserError, match=words), on(base, {"lora_dropout": 0.0, **given}):
        pass
    assert same(bits(base), before)


def test_experts_that_a_lora_does_not_reach_are_said(tiny_model: Callable) -> None:
    """PEFT knows those of Mixtral's and Qwen's kind, and no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        with on(tiny_model("mixtral"), {"lora_dropout": 0.0}):
            pass
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"intermediate_size": 48, "num_local_experts": 4, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 2}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", vocab_size=64, **sizes, **more))
    with (
        pytest.warns(Notice, match=r"fused in one tensor: model\.layers\.\*\.mlp\.experts\.gate_up_proj"),
        on(base, {}),
    ):
        pass


def test_layers_that_were_replicated_are_counted_no_longer(tiny_model: Callable) -> None:
    base = tiny_model()
    with on(base, {"layer_replication": [[0, 2], [0, 2]]}) as model:
        assert len(model.base_model.model.model.layers) == base.config.num_hidden_layers == 4
    assert len(base.model.layers) == base.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trainable_token_indices": [999]}, "index 999 is out of bounds"),
        ({"layer_replication": [[0, 9]]}, "index 2 is out of range"),
        ({"use_qalora": True}, "use_qalora groups the inputs of GPTQ's layers alone, and the method reaches none here"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "there is no 'loftq_iter'"),
    ],
)
def test_what_peft_does_not_look_at_is_one_line(tiny_model: Callable, given: dict, words: str) -> None:
    base = tiny_model()
    with pytest.raises(UserError, match=f"method lora: {words}"), on(base, given):
        pass
    assert base.config.num_hidden_layers == len(base.model.layers) == 2


def on(base: torch.nn.Module, given: dict, name: str = "lora") -> AbstractContextManager:
    """The base with an adapter of rank 4."""
    return adapted(base, choose_method({"name": name, "r": 4, **given}), ["one"], seed=0, keep_base=True)
