"""What state an adapter is in: active, deleted, disabled, trainable, its dtype, its status; and training going on."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_adapters import IDS, METHODS, TASKS, adapted, logits, method, randomize
from torch import nn

from loraweave import WeaveConfig


def trainable(model: nn.Module, adapter: str = "default") -> set[str]:
    """Kinds of tensors of an adapter that are trained."""
    return {
        n.split(".")[-2]
        for n, p in model.named_parameters()
        if p.requires_grad and ".weave_" in n and n.endswith(f".{adapter}")
    }


def steps(model: nn.Module, count: int) -> list[float]:
    """Losses of a few steps of plain SGD, without dropout."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(count):
        loss = model(input_ids=IDS, labels=IDS, tasks=TASKS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_adapter_trains_on_where_it_was(tiny_model, tmp_path: Path, name: str):
    model = get_peft_model(tiny_model(), method(name, lora_dropout=0.0))
    first = steps(model, 2)
    model.save_pretrained(tmp_path)
    kinds = trainable(model)
    assert ("weave_A" in kinds) == model.active_peft_config.train_down
    assert "weave_anchor_A" not in kinds
    frozen = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert trainable(frozen) == set()
    resumed = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    assert trainable(resumed) == kinds
    going_on = steps(model, 2)
    assert steps(resumed, 2) == going_on
    assert going_on[0] < first[0]


@pytest.mark.parametrize("name", METHODS)
def test_requires_grad_follows_the_active_adapter(tiny_model, name: str):
    model = get_peft_model(tiny_model(), method(name))
    kinds = trainable(model)
    model.add_adapter("two", method(name))
    assert trainable(model, "two") == set()
    model.set_adapter("two")
    assert (trainable(model), trainable(model, "two")) == (set(), kinds)
    model.set_adapter("default", inference_mode=True)
    assert (trainable(model), trainable(model, "two")) == (set(), set())
    model.set_requires_grad(["default", "two"])
    assert (trainable(model), trainable(model, "two")) == (kinds, kinds)


@pytest.mark.parametrize("name", METHODS)
def test_the_status_says_what_is(tiny_model, name: str):
    model = adapted(tiny_model(), name, target_modules=["q_proj", "v_proj"])
    status = model.get_model_status()
    assert (status.enabled, status.active_adapters, status.available_adapters) == (True, ["default"], ["default"])
    partly = True if model.active_peft_config.train_down else "irregular"  # PEFT's word
    assert (status.requires_grad, status.num_adapter_layers) == ({"default": partly}, 4)
    assert status.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert [layer.devices for layer in model.get_layer_status()] == [{"default": ["cpu"]}] * 4
    with model.disable_adapter():
        assert not model.get_model_status().enabled


@pytest.mark.parametrize("name", METHODS)
def test_deleting_the_active_adapter_leaves_the_other(tiny_model, name: str):
    model = adapted(tiny_model(), "weave")
    expected = logits(model)
    model.add_adapter("two", method(name))
    model.set_adapter("two")
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("two")
    assert torch.equal(logits(model), expected)
    assert not any(n.endswith(".two") for n in model.state_dict())
    assert all("two" not in layer.knobs for layer in model.modules() if hasattr(layer, "knobs"))


@pytest.mark.parametrize("name", METHODS)
def test_active_adapters_add_up_in_any_order(tiny_model, name: str):
    model = adapted(tiny_model(), "multilora", target_modules=["v_proj"])
    model.add_adapter("two", method(name, target_modules=["v_proj", "o_proj"]))
    randomize(model, 1, "two")
    alone = {}
    for adapter in ("default", "two"):
        model.set_adapter(adapter)
        alone[adapter] = logits(model)
    model.base_model.set_adapter(["default", "two"])
    both = logits(model)
    model.base_model.set_adapter(["two", "default"])
    torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-6)
    assert not any(torch.allclose(both, one, atol=1e-4) for one in alone.values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_is_the_same_and_apart(tiny_model, name: str, how):
    model = adapted(tiny_model(), name)
    expected = logits(model)
    twin = how(model)
    assert torch.equal(logits(twin), expected)
    randomize(model, 5)
    assert torch.equal(logits(twin), expected)


@pytest.mark.parametrize("bias", ["weave_only", "all"])
@pytest.mark.parametrize("name", ["weave", "rlora", "moelora"])
def test_trained_biases_are_saved_and_said_to_stay(tiny_model, tmp_path: Path, name: str, bias: str):
    model = get_peft_model(tiny_model("gpt2"), method(name, bias=bias, target_modules=["c_attn"], lora_dropout=0.0))
    biases = {n for n, p in model.named_parameters() if n.endswith("bias") and p.requires_grad}
    assert any("c_attn" in n for n in biases)
    assert any("ln_1" in n for n in biases) == (bias == "all")
    before = {n: p.clone() for n, p in model.named_parameters() if n in biases}
    steps(model, 2)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in biases and "c_attn" in n)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("gpt2"), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model.eval()))
    with pytest.warns(UserWarning, match="disabling adapter layers with bias"), model.disable_adapter():
        pass
    with pytest.raises(ValueError, match="only 1 adapter with bias"):
        model.add_adapter("two", method(name, bias=bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_adapters_are_float32_unless_told_otherwise(tiny_model, name: str, dtype: torch.dtype):
    for autocast, expected in ((True, torch.float32), (False, dtype)):
        model = get_peft_model(tiny_model(dtype=dtype), method(name), autocast_adapter_dtype=autocast).eval()
        assert {p.dtype for n, p in model.named_parameters() if "weave_" in n} == {expected}
        assert logits(model).dtype == dtype
        assert logits(model).isfinite().all()


def test_an_adapter_added_in_eval_mode_has_no_dropout(tiny_model):
    model = adapted(tiny_model(), "weave", target_modules=["q_proj"])
    model.add_adapter("two", method("rlora", target_modules=["v_proj"], lora_dropout=0.5))
    randomize(model, 1, "two")
    model.set_adapter("two")
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(
    "field", ["target_parameters", "ensure_weight_tying", "layer_replication", "init_lora_weights"]
)
def test_what_only_lora_has_is_an_unknown_argument(field: str):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{field}'"):
        WeaveConfig(**{field: True})


def test_layers_to_transform_holds_for_all_linear_layers(tiny_model):
    for index in (1, [1]):
        model = adapted(tiny_model(), "rlora", layers_to_transform=index)
        names = {n.split(".")[4] for n, p in model.named_parameters() if "weave_" in n}
        assert names == {"1"}


def test_weights_of_fused_experts_are_named_as_unreached(tiny_model):
    with pytest.warns(UserWarning, match=r'"all-linear" does not reach .*layers\.\*\.mlp\.experts\.gate_up_proj \(2\)'):
        model = get_peft_model(tiny_model("mixtral"), method("rlora"))
    assert not any("experts" in n for n, p in model.named_parameters() if p.requires_grad)


def test_models_without_fused_experts_have_nothing_named(tiny_model, recwarn):
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.linear = nn.Conv1d(4, 4, 3), nn.Linear(4, 4)
            self.positions = nn.Parameter(torch.zeros(1, 4, 4))

    get_peft_model(tiny_model(), method("rlora"))
    get_peft_model(Convolution(), method("rlora", task_type=None))
    assert not [w for w in recwarn if "experts" in str(w.message)]
