"""The PEFT method on whole models: what a PEFT user takes for granted, for every preset."""

import copy
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from conftest import ARCHITECTURES
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_adapters import IDS, ON_INPUT, TASKS, logits, method
from torch import nn
from transformers import BertConfig, BertForTokenClassification

import loraweave
from loraweave import RLoraConfig, UserError
from loraweave.config import PRESETS
from loraweave.errors import Notice


def train_a_little(model: nn.Module, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS, tasks=TASKS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", PRESETS)
def test_train_save_load_disable(tiny_model, tmp_path: Path, architecture: str, name: str):
    base = tiny_model(architecture)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
    model = get_peft_model(base, method(name)).eval()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)
    if model.peft_config["default"].start != "random_anchored":
        assert torch.equal(logits(model), before)

    train_a_little(model)
    after = logits(model)
    assert not torch.allclose(after, before, atol=1e-4)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, before)
    assert torch.equal(logits(model), after)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path).eval()
    assert torch.equal(logits(loaded), after)
    auto = peft.PeftConfig.from_pretrained(tmp_path)
    assert auto.method == name


def test_the_adapter_file_holds_the_documented_tensors(tiny_model, tmp_path: Path):
    shapes = {
        "multilora": {"weave_A": (3, 4, 32), "weave_B": (3, 32, 4), "weave_channel": (3, 32)},
        "rlora": {
            "weave_A": (1, 4, 32),
            "weave_B": (5, 32, 4),
            "weave_router": (5, 32),
            "weave_anchor_A": (4, 32),
            "weave_anchor_B": (32, 4),
        },
        "mtllora": {
            "weave_A": (1, 4, 32),
            "weave_B": (3, 32, 4),
            "weave_task_logits": (2, 3),
            "weave_task_transform": (2, 4, 4),
        },
        "moelora": {
            "weave_A": (8, 4, 32),
            "weave_B": (8, 32, 4),
            "weave_task_embedding": (2, 64),
            "weave_task_gate": (8, 64),
        },
    }
    for name, expected in shapes.items():
        get_peft_model(tiny_model(), method(name)).save_pretrained(tmp_path / name)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        start = "base_model.model.model.layers.0.self_attn.q_proj."
        assert {k.removeprefix(start): tuple(v.shape) for k, v in tensors.items() if k.startswith(start)} == expected


LOAD = """
import sys, torch
{first}
import peft
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(base, sys.argv[2]).eval()
ids = torch.arange(3, 10)[None]
torch.save(model(input_ids=ids).logits, sys.argv[3])
"""


@pytest.mark.long
def test_an_adapter_loads_in_a_fresh_process_that_imported_loraweave_only(tiny_model, tmp_path: Path):
    base = tiny_model()
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, method("rlora"))
    train_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    paths = [str(tmp_path / n) for n in ("base", "adapter", "out.pt")]

    script = [sys.executable, "-c", LOAD.format(first="import loraweave"), *paths]
    subprocess.run(script, check=True, capture_output=True)
    expected = model(input_ids=torch.arange(3, 10)[None]).logits
    torch.testing.assert_close(torch.load(paths[2]), expected, rtol=0, atol=1e-6)

    script[2] = LOAD.format(first="")
    failed = subprocess.run(script, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "LORAWEAVE" in failed.stderr.strip().splitlines()[-1]
    assert "import loraweave" in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in ON_INPUT])
def test_merge_and_unload(tiny_model, name: str):
    model = get_peft_model(tiny_model(), method(name, init_weights=False)).eval()
    with loraweave.task(model, "b"):
        expected = logits(model, tasks=None)
        merged = model.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    assert not any("weave" in n for n, _ in merged.named_parameters())
    assert type(merged.model.layers[0].self_attn.q_proj) is nn.Linear
    assert not merged._forward_pre_hooks
    assert not merged._forward_hooks


def test_several_adapters_on_one_model(tiny_model, tmp_path: Path):
    model = get_peft_model(tiny_model(), method("rlora", init_weights=False), adapter_name="one").eval()
    one = logits(model)
    model.add_adapter("two", method("mtllora", init_weights=False, task_names=["b", "a"]))
    assert torch.equal(logits(model), one)
    model.set_adapter("two")
    two = logits(model)
    assert not torch.allclose(one, two)
    # Names, not ids, say what is meant: the second adapter has its tasks in another order.
    assert torch.equal(logits(model, tasks=[1, 0, 1]), two)
    model.base_model.set_adapter(["one", "two"])
    assert not torch.allclose(logits(model), two)
    model.save_pretrained(tmp_path)
    model.set_adapter("one")
    model.delete_adapter("two")
    assert torch.equal(logits(model), one)
    model.load_adapter(tmp_path / "two", adapter_name="again")
    model.set_adapter("again")
    assert torch.equal(logits(model), two)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"target_modules": "all-linear"}, 14),
        ({"target_modules": ["q_proj", "v_proj"]}, 4),
        ({"target_modules": r".*layers\.1\.mlp\.(up|down)_proj"}, 2),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, 12),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}, 1),
    ],
)
def test_target_modules(tiny_model, knobs: dict, expected: int):
    model = get_peft_model(tiny_model(), method("rlora", **knobs))
    layers = [m for m in model.modules() if isinstance(m, loraweave.tuner.WeaveLinear)]
    assert len(layers) == expected


def test_rank_and_alpha_patterns(tiny_model):
    config = method(
        "mlora", rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.self_attn.v_proj": 7}, use_rslora=False
    )
    layers = get_peft_model(tiny_model(), config).base_model.model.model.layers
    assert layers[0].self_attn.q_proj.weave_A["default"].shape == (1, 2, 32)
    assert layers[0].self_attn.k_proj.weave_A["default"].shape == (1, 4, 32)
    assert layers[1].self_attn.v_proj.knobs["default"].scaling == 7 / 4


def test_a_frozen_a_stays_frozen_whatever_is_done_to_the_adapter(tiny_model):
    model = get_peft_model(tiny_model(), method("lori", task_transform=True))
    model.add_adapter("other", method("own"))

    def trained(adapter: str) -> set[str]:
        names = (n for n, p in model.named_parameters() if p.requires_grad)
        return {n.split(".")[-2] for n in names if n.endswith(f".{adapter}")}

    lori = {"weave_B", "weave_task_transform"}
    assert (trained("default"), trained("other")) == (lori, set())
    with model.disable_adapter():
        pass
    assert trained("default") == lori
    model.set_adapter("other")
    assert (trained("default"), trained("other")) == (set(), {"weave_A", "weave_B"})
    model.set_adapter("default")
    assert (trained("default"), trained("other")) == (lori, set())
    model(input_ids=IDS, labels=IDS, tasks=TASKS).loss.backward()
    assert all(p.grad is None for n, p in model.named_parameters() if "weave_A" in n)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"num_heads": 3}, "all heads get the same gradient and stay alike"),
        ({"num_heads": 3, "head_dropout": True}, "all heads get the same gradient"),
        ({"gate": "token", "num_heads": 3, "num_heads_pattern": {"q_prj": 2}}, "num_heads_pattern names 'q_prj'"),
        ({"num_heads": 3, "head_dropout": True, "lora_dropout": 0.1}, None),
        ({"num_heads": 3, "down": "per_head"}, None),
        ({"num_heads": 3, "up": "shared"}, None),
        ({"num_heads": 3, "inference_mode": True}, None),
        ({"gate": "token", "num_heads": 3, "num_heads_pattern": {"q_proj": 2}}, None),
    ],
    ids=str,
)
def test_knobs_that_would_do_nothing_are_said(tiny_model, recwarn, knobs: dict, said: str | None):
    get_peft_model(tiny_model(), method("weave", **knobs))
    notices = [str(warned.message) for warned in recwarn if issubclass(warned.category, Notice)]
    assert [said in notice for notice in notices] == ([True] if said else [])


def test_a_size_of_blocks_needs_a_block(tiny_model):
    with pytest.raises(UserError, match=r"block_size=.* is of whole blocks, and the target modules are linear layers"):
        get_peft_model(tiny_model(), method("weave", block_size=[32, 32]))
    for targets, beside in ((["mlp"], True), (["q_proj"], False)):
        config = get_peft_model(tiny_model(), method("weave", target_modules=targets)).active_peft_config
        assert config.beside_blocks == beside


def test_modules_to_save(tiny_model, tmp_path: Path):
    config = method("rlora", target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(tiny_model(), config)
    train_a_little(model)
    after = logits(model)
    model.save_pretrained(tmp_path)
    assert any("lm_head" in k for k in load_file(tmp_path / "adapter_model.safetensors"))
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_model(), tmp_path).eval()), after)


def test_a_new_head_is_trained_whole_and_not_adapted():
    config = BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    model = get_peft_model(BertForTokenClassification(config), method("rlora", task_type="TOKEN_CLS"))
    model(input_ids=IDS, labels=IDS % 3).loss.backward()
    assert model.base_model.model.classifier.modules_to_save["default"].weight.grad.abs().sum() > 0


def test_generate_with_tasks(tiny_model):
    model = get_peft_model(tiny_model(), method("mtllora", init_weights=False)).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, loraweave.tuner.WeaveLinear):
                layer.weave_task_logits["default"].normal_(std=3)
                layer.weave_task_transform["default"].normal_()
    options = {"max_new_tokens": 6, "do_sample": False}
    for extra in ({}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        both = model.generate(input_ids=IDS, tasks=TASKS, **options, **extra)
        again = [model.generate(input_ids=IDS[i : i + 1], tasks=TASKS[i], **options, **extra) for i in range(3)]
        assert torch.equal(both, torch.cat(again))
    with loraweave.task(model, TASKS):
        assert torch.equal(
            model.generate(input_ids=IDS, **options), model.generate(input_ids=IDS, tasks=TASKS, **options)
        )


def test_tasks_reach_a_plain_peft_model(tiny_model):
    config = method("mtllora", init_weights=False)
    config.task_type = None
    model = get_peft_model(tiny_model(), config).eval()
    assert type(model) is PeftModel
    assert not torch.allclose(logits(model), logits(model, tasks=["b", "a", "b"]))


def test_a_method_that_needs_tasks_says_which_it_knows(tiny_model):
    model = get_peft_model(tiny_model(), method("mtllora")).eval()
    for tasks, message in ((None, "a, b"), (["a", "c", "a"], "unknown task 'c'"), ([0, 2, 0], "task id 2")):
        with pytest.raises(UserError, match=message) as error:
            logits(model, tasks=tasks)
        assert "a, b" in str(error.value)
    assert logits(model, tasks=torch.tensor([0, 1, 0])).isfinite().all()  # and an error leaves nothing behind
    with pytest.raises(UserError, match="a, b"):
        logits(model, tasks=None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_see_the_tasks_of_their_own_forward(tiny_model, reentrant: bool):
    config = method("mtllora", init_weights=False, lora_dropout=0.0)
    model = get_peft_model(tiny_model(), config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]

    def grads() -> list[torch.Tensor]:
        one = model(input_ids=IDS, labels=IDS, tasks=["a", "a", "b"]).loss
        two = model(input_ids=IDS, labels=IDS, tasks=torch.ones_like(IDS)).loss
        model.zero_grad()
        (one + 2 * two).backward()
        return [p.grad.clone() for p in trained]

    plain = grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for kept, expected in zip(grads(), plain, strict=True):
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-6)


def test_a_copied_model_keeps_its_own_tasks(tiny_model):
    model = get_peft_model(tiny_model(), method("mtllora", init_weights=False)).eval()
    twin = copy.deepcopy(model)
    assert torch.equal(logits(model), logits(twin))
    with loraweave.task(twin, "a"), pytest.raises(UserError):
        logits(model, tasks=None)


def test_task_on_a_model_without_adapter(tiny_model):
    with pytest.raises(UserError, match="no Weave adapter"), loraweave.task(tiny_model(), "a"):
        pass


def test_a_missing_target_is_peft_s_error(tiny_model):
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(tiny_model(), RLoraConfig(target_modules=["nonsense"]))
