"""An adapter beside a whole block: reads what the block reads, is added to its first output, whatever the block."""

from pathlib import Path

import peft
import pytest
import reference
import torch
from accelerate import cpu_offload
from tiny_adapters import IDS, TASKS, logits, method, randomize
from torch import nn

import loraweave
from loraweave import UserError, WeaveConfig
from loraweave.tuner.block import WeaveBlock

BLOCKS = ["mlp", "self_attn"]


def beside(base: nn.Module, **knobs) -> nn.Module:
    config = method("weave", **{"num_heads": 3, "gate": "token", "target_modules": BLOCKS, **knobs})
    model = peft.get_peft_model(base, config).eval()
    randomize(model)
    return model


def blocks_of(model: nn.Module) -> dict[str, WeaveBlock]:
    return {name: module for name, module in model.named_modules() if isinstance(module, WeaveBlock)}


def test_is_added_to_what_the_block_returns_first(tiny_model):
    model = beside(tiny_model())
    seen = {}
    for name, block in blocks_of(model).items():

        def inner(module, args, kwargs, out, name=name):
            x = args[0] if args else kwargs["hidden_states"]
            seen[name] = [x, out if torch.is_tensor(out) else out[0]]

        def outer(module, args, kwargs, out, name=name):
            seen[name].append(out if torch.is_tensor(out) else out[0])

        block.base_layer.register_forward_hook(inner, with_kwargs=True)
        block.register_forward_hook(outer, with_kwargs=True)
    logits(model, None)
    assert len(seen) == 2 * len(BLOCKS)
    for name, (x, plain, changed) in seen.items():
        update = model.get_submodule(name).formula("default").update(x)
        assert update.abs().max() > 0.01
        torch.testing.assert_close(changed, plain + update, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("knobs", [{}, {"gate": "own", "down": "per_head", "num_heads": 2}, {"gate_groups": 2}])
def test_trains_saves_loads_and_switches_off(tiny_model, tmp_path: Path, knobs):
    base = logits(tiny_model(), None)
    model = peft.get_peft_model(
        tiny_model(), method("weave", **{"num_heads": 3, "gate": "token", "target_modules": BLOCKS, **knobs})
    )
    torch.testing.assert_close(logits(model), base)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=IDS, labels=IDS, tasks=TASKS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), base, atol=1e-4)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded, None), base)
    assert torch.equal(logits(loaded.unload(), None), base)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_have_the_same_gradients(tiny_model, reentrant: bool):
    found = []
    for checkpointing in (False, True):
        model = beside(tiny_model(), gate="own", down="per_head", num_heads=2).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(input_ids=IDS, labels=IDS, tasks=TASKS).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_on_an_offloaded_base_a_new_adapter_has_its_first_values(tiny_model):
    """accelerate's hooks are on the linear layers within: the block itself has no weight and no hook."""
    expected = logits(beside(tiny_model()))
    model = beside(cpu_offload(tiny_model(), torch.device("cpu")))
    assert {p.device.type for n, p in model.named_parameters() if "weave_" in n} == {"cpu"}
    torch.testing.assert_close(logits(model), expected)


def test_generates_with_tasks_and_a_cache(tiny_model):
    model = beside(tiny_model(), gate="own", down="per_head", num_heads=2)
    for row, task in enumerate(TASKS):
        ids = IDS[row : row + 1]
        cached = model.generate(ids, tasks=[task], max_new_tokens=5, do_sample=False)
        for _ in range(5):
            best = model(input_ids=ids, tasks=[task]).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], 1)
        assert torch.equal(cached, ids)


def test_never_merges_and_says_so(tiny_model):
    model = beside(tiny_model(), gate="uniform")
    before = logits(model, None)
    with pytest.raises(UserError, match=r"layers.0.self_attn.*no one weight"):
        model.merge_adapter()
    with pytest.warns(UserWarning, match="beside the whole block"):
        assert not model.supports_lora_conversion()
    assert torch.equal(logits(model, None), before)


def test_what_a_model_reads_of_its_block_is_the_blocks(tiny_model):
    model = beside(tiny_model())
    assert [block.layer_idx for name, block in blocks_of(model).items() if "attn" in name] == [0, 1]
    with pytest.raises(AttributeError):
        _ = next(iter(blocks_of(model).values())).nothing_of_the_kind


class Pair(nn.Module):
    """Two tensors in, two out; wider outside than within."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 9), nn.Linear(9, 6)

    def forward(self, x, y, scale=1.0):
        return [self.last(self.first(x)) * scale, y]


class Holder(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return self.block(*args, **kwargs)


def test_keeps_the_kind_of_what_a_block_returns_and_its_size_may_be_given():
    x, y = torch.randn(2, 3, 4), torch.randn(5)
    config = WeaveConfig(r=2, target_modules=["block"], init_weights=False)
    holder = Holder(Pair())
    plain = holder(x, y, scale=2.0)[0]
    model = peft.get_peft_model(holder, config).eval()
    out = model(x=x, y=y, scale=2.0)
    assert isinstance(out, list)
    assert out[1] is y
    torch.testing.assert_close(out[0], plain + model.base_model.model.block.formula("default").update(x))

    wide = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Upsample(scale_factor=2))
    with pytest.raises(UserError, match=r"maps \(2, 3, 4\) to \(2, 3, 8\), its adapter 4 to 4 .*block_size"):
        peft.get_peft_model(Holder(wide), WeaveConfig(r=2, target_modules=["block"]))(x)
    wide = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Upsample(scale_factor=2))
    model = peft.get_peft_model(Holder(wide), WeaveConfig(r=2, target_modules=["block"], block_size=[4, 8]))
    assert model(x).shape == (2, 3, 8)


class Turned(Pair):
    """Returns a view whose rows do not follow each other in memory."""

    def forward(self, x):
        return self.last(self.first(x)).mT.contiguous().mT


@pytest.mark.parametrize(
    "knobs",
    [
        {"gate": "own", "down": "per_head", "num_heads": 2},
        {"gate": "own", "train_down": False, "task_transform": "diagonal"},
        {"gate": "token", "gate_groups": 2, "top_k": 2, "router_input": "rank", "num_heads": 3},
        {"gate": "token", "up": "shared", "num_heads": 3},
        {"gate": "task", "task_transform": True, "num_heads": 3, "up_density": 0.5},
        {"gate": "channel", "start": "zero_gate", "down": "per_head", "num_heads": 3},
        {"start": "random_anchored", "gate": "token", "num_heads": 3},
    ],
    ids=str,
)
def test_every_kind_of_update_lies_beside_a_block_as_its_formula_says(knobs):
    config = WeaveConfig(r=2, task_names=["a", "b"], target_modules=["block"], **knobs)
    model = peft.get_peft_model(Holder(Turned()).double(), config, autocast_adapter_dtype=False).eval()
    assert model.active_peft_config.beside_blocks
    block = model.base_model.model.block
    tensors = {n.split(".")[0]: p for n, p in block.named_parameters() if n.startswith("weave_")}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, tensors.values()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    trained = [x, *(tensor for tensor in tensors.values() if tensor.requires_grad)]
    for ids in (torch.tensor([1, 0]), torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 1, 0]])):
        per_token = ids if ids.ndim == 2 else ids[:, None].expand(2, 5)
        expected = block.base_layer(x) + reference.update(config, tensors, x, per_token)
        results = [(y, *torch.autograd.grad(y.sin().sum(), trained)) for y in (model(x, tasks=ids), expected)]
        for fast, plain in zip(*results, strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


def test_a_layer_within_an_adapted_block_is_refused(tiny_model):
    with pytest.raises(UserError, match=r"self_attn.q_proj is within the block model.layers.0.self_attn"):
        beside(tiny_model(), target_modules=["self_attn", "q_proj"])


def test_a_block_without_linear_layers_is_refused(tiny_model):
    with pytest.raises(UserError, match="cannot be adapted"):
        beside(tiny_model(), target_modules=["input_layernorm"])


def test_more_heads_in_higher_blocks(tiny_model):
    """MoLA: parts of the depth, kept with the adapter; entries by name go first."""
    config = loraweave.MolaConfig(
        r=2, target_modules=["q_proj", "o_proj"], num_heads_pattern={"layers.1.self_attn.o_proj": 3}
    )
    model = peft.get_peft_model(tiny_model(), config)
    heads = {
        name.split("layers.")[1]: module.weave_B["default"].shape[0]
        for name, module in model.named_modules()
        if hasattr(module, "weave_B")
    }
    assert heads == {"0.self_attn.q_proj": 2, "0.self_attn.o_proj": 2, "1.self_attn.q_proj": 6, "1.self_attn.o_proj": 3}
    with pytest.raises(UserError, match=r"in no nn\.ModuleList"):
        peft.get_peft_model(Holder(Pair()), loraweave.MolaConfig(r=2, target_modules=["first"]))
