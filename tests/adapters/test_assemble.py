"""LoRAs made by plain PEFT answer within one adapter as each does by itself, and can be taken out again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_adapters import IDS, adapted, logits
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import loraweave
from loraweave import UserError
from loraweave.adapters.file import AdapterFile
from loraweave.cli.app import app

KINDS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj"]},
    "wide": {"r": 5, "lora_alpha": 3, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 3,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {"layers.1.mlp.down_proj": 1},
    },
}


ON_GPT2: dict[str, dict[str, Any]] = {  # its linear layers are Conv1D, its head is tied to the embedding
    "some": {"r": 4, "target_modules": ["c_attn", "c_fc"], "layers_to_transform": [1], "use_rslora": True},
    "rest": {
        "r": 2,
        "target_modules": ["c_attn", "c_proj"],
        "exclude_modules": ["attn.c_proj"],
        "alpha_pattern": {r"h\.0\.attn\.c_attn": 5},
    },
    "head": {"r": 3, "lora_alpha": 5, "target_modules": ["lm_head"]},
}


def make(base: nn.Module, folder: Path, seed: int, dtype: torch.dtype | None = None, **settings: Any) -> Path:
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**{"init_lora_weights": False, "task_type": "CAUSAL_LM", **settings}))
    if dtype is not None:
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(dtype) if "lora_" in name else parameter.data
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture
def loras(tiny_model: Callable, tmp_path: Path) -> dict[str, Path]:
    return {n: make(tiny_model(), tmp_path / n, i, **settings) for i, (n, settings) in enumerate(KINDS.items())}


def alone(tiny_model: Callable, folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(tiny_model(), str(folder)).eval(), None)


def test_each_task_is_answered_as_by_its_own_lora(tiny_model: Callable, loras: dict[str, Path], tmp_path: Path) -> None:
    folder = loraweave.assemble(loras, tmp_path / "all")
    model = PeftModel.from_pretrained(tiny_model(), str(folder)).eval()
    expected = {name: alone(tiny_model, lora) for name, lora in loras.items()}
    for name in loras:
        torch.testing.assert_close(logits(model, name), expected[name], rtol=1e-5, atol=1e-5)
    mixed = logits(model, [*loras])
    for row, name in enumerate(loras):
        torch.testing.assert_close(mixed[row], expected[name][row], rtol=1e-5, atol=1e-5)
    assert (expected["small"] - expected["wide"]).abs().max() > 0.01


def test_what_differs_between_loras_does_not_matter(tiny_model: Callable, tmp_path: Path) -> None:
    """Layers by index or left out, Conv1D, a tied head, half precision: apart again and together as PEFT has each."""
    loras = {
        name: make(tiny_model("gpt2"), tmp_path / name, seed, torch.bfloat16, **settings)
        for seed, (name, settings) in enumerate(ON_GPT2.items())
    }
    together = loraweave.assemble(loras, tmp_path / "all")
    assert len({*map(len, (AdapterFile(path).sizes for path in loras.values()))}) > 1
    apart = loraweave.split(together, tmp_path / "apart")
    model = PeftModel.from_pretrained(tiny_model("gpt2"), str(together)).eval()
    base = logits(tiny_model("gpt2"), None)
    for name, lora in loras.items():
        expected = alone(lambda: tiny_model("gpt2"), lora)
        assert (expected - base).abs().max() > 0.01
        torch.testing.assert_close(logits(model, name), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone(lambda: tiny_model("gpt2"), apart[name]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", ["uniform", "token"])
def test_shared_gates_start_at_the_mean(
    tiny_model: Callable, loras: dict[str, Path], tmp_path: Path, gate: Any
) -> None:
    model = PeftModel.from_pretrained(
        tiny_model(), str(loraweave.assemble(loras, tmp_path / "all", gate)), is_trainable=True
    ).eval()
    mean = tiny_model()
    with torch.no_grad():
        for lora in loras.values():
            one = PeftModel.from_pretrained(tiny_model(), str(lora)).merge_and_unload()
            plain = tiny_model()
            for weight, other, base in zip(mean.parameters(), one.parameters(), plain.parameters(), strict=True):
                weight += (other - base) / len(loras)
    torch.testing.assert_close(logits(model, None), logits(mean, None), rtol=1e-4, atol=1e-5)
    if gate == "token":
        model(input_ids=IDS, labels=IDS).loss.backward()
        routers = [p for name, p in model.named_parameters() if "weave_router" in name]
        assert all(router.grad is not None and router.grad.abs().sum() > 0 for router in routers)


def test_split_gives_the_loras_back(tiny_model: Callable, loras: dict[str, Path], tmp_path: Path) -> None:
    parts = loraweave.split(loraweave.assemble(loras, tmp_path / "all"), tmp_path / "parts")
    assert list(parts) == list(loras)
    for name, part in parts.items():
        config = LoraConfig.from_pretrained(str(part))
        assert (config.r, config.rank_pattern, config.use_rslora) == (config.lora_alpha, {}, False)
        torch.testing.assert_close(alone(tiny_model, part), alone(tiny_model, loras[name]), rtol=1e-5, atol=1e-5)


def test_what_is_known_of_the_base_goes_on_and_must_be_of_one(loras: dict[str, Path], tmp_path: Path) -> None:
    record = {"name": "org/model", "revision": "v2", "fingerprint": "0" * 16}
    for lora in loras.values():
        (lora / "base.json").write_text(json.dumps(record))
    together = loraweave.assemble(loras, tmp_path / "all")
    sparse = loraweave.sparsify(together, 0.5, tmp_path / "sparse")
    for folder in (together, sparse, *loraweave.split(together, tmp_path / "parts").values()):
        assert json.loads((folder / "base.json").read_text()) == record
    (loras["wide"] / "base.json").write_text(json.dumps({**record, "fingerprint": "1" * 16}))
    with pytest.raises(UserError, match=r"wide is of the fingerprint 1+, .*small of 0+; where these are .*--base"):
        loraweave.assemble(loras, tmp_path / "other")
    assert not (loraweave.assemble(loras, tmp_path / "forced", base="org/model") / "base.json").exists()


@pytest.mark.parametrize("name", ["own", "mtllora", "moelora", "lori"])
def test_every_method_that_tells_tasks_apart_splits(tiny_model: Callable, tmp_path: Path, name: str) -> None:
    check_split(adapted(tiny_model(), name), tiny_model, tmp_path)


@pytest.mark.parametrize(
    "knobs",
    [
        {"gate": "own", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
        {"gate": "own", "down": "per_head", "task_transform": "diagonal", "layers_to_transform": [1]},
        {"gate": "task", "num_heads": 3, "num_heads_pattern": {"q_proj": 2, "k_proj": 1}, "task_transform": True},
        {"gate": "task_embedding", "num_heads": 3, "top_k": 2, "down": "per_head"},
        {"num_heads": 3, "up": "shared", "task_transform": True},
        {"num_heads": 2, "start": "random_anchored", "head_dropout": True, "task_transform": "diagonal"},
        {"gate": "channel", "num_heads": 3, "task_transform": True},
        {"gate": "token", "task_transform": True},
    ],
    ids=str,
)
def test_whatever_tells_tasks_apart_splits(tiny_model: Callable, tmp_path: Path, knobs: dict[str, Any]) -> None:
    targets = ["q_proj", "k_proj", "v_proj"] if "layers_to_transform" in knobs else "all-linear"
    check_split(adapted(tiny_model(), "weave", target_modules=targets, **knobs), tiny_model, tmp_path)


def check_split(model: nn.Module, tiny_model: Callable, folder: Path) -> None:
    model.save_pretrained(str(folder / "all"))
    parts = loraweave.split(folder / "all", folder / "parts")
    assert list(parts) == ["a", "b"]
    assert not torch.allclose(logits(model, "a"), logits(model, "b"), atol=1e-3)
    for task, part in parts.items():
        torch.testing.assert_close(alone(tiny_model, part), logits(model, task), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "DoRA cannot become a head"),
        ({"bias": "all"}, "bias='all' cannot"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save cannot"),
        ({"lora_bias": True}, "lora_bias cannot"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens cannot"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora', which changes the base, cannot"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens.* belongs to no linear layer"),
    ],
)
def test_what_is_no_plain_lora_is_named(
    tiny_model: Callable, loras: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    odd = make(tiny_model(), tmp_path / "odd", 9, **{"r": 2, "target_modules": ["q_proj"], **settings})
    with pytest.raises(UserError, match=message):
        loraweave.assemble({**loras, "odd": odd}, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_other_refusals(tiny_model: Callable, loras: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two LoRAs or more"):
        loraweave.assemble({"one": loras["small"]}, tmp_path / "all")
    with pytest.raises(UserError, match="is not one of own"):
        loraweave.assemble(loras, tmp_path / "all", "task")  # type: ignore[arg-type]
    wider = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    other = make(LlamaForCausalLM(wider), tmp_path / "other", 0, r=2, target_modules=["q_proj"])
    with pytest.raises(UserError, match="different bases"):
        loraweave.assemble({**loras, "other": other}, tmp_path / "all")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="there is something already"):
        loraweave.assemble(loras, tmp_path / "there")
    (tmp_path / "empty").mkdir()
    assert (loraweave.assemble(loras, tmp_path / "empty") / "adapter_config.json").is_file()
    adapted(tiny_model(), "rlora").save_pretrained(str(tmp_path / "routed"))
    with pytest.raises(UserError, match="weighs its heads by the input, so no task has a LoRA of its own"):
        loraweave.split(tmp_path / "routed", tmp_path / "parts")
    adapted(tiny_model(), "mlora").save_pretrained(str(tmp_path / "same"))
    with pytest.raises(UserError, match="one update for all tasks"):
        loraweave.split(tmp_path / "same", tmp_path / "parts")
    adapted(tiny_model(), "own", target_modules=["mlp"]).save_pretrained(str(tmp_path / "beside"))
    with pytest.raises(UserError, match="beside whole blocks and changes no weight"):
        loraweave.split(tmp_path / "beside", tmp_path / "parts")
    make(tiny_model(), tmp_path / "run" / "adapter", 0, r=2, target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"run: the folder of a run; its adapter is .*run/adapter"):
        loraweave.assemble({**loras, "run": tmp_path / "run"}, tmp_path / "all")
    with pytest.raises(UserError, match="not a plain LoRA"):
        loraweave.assemble({**loras, "routed": tmp_path / "routed"}, tmp_path / "all")


def test_loras_of_other_classes_of_a_base_are_refused(tiny_model: Callable, tmp_path: Path) -> None:
    """A base without its head names the same layers otherwise; together they would fit neither."""
    whole = make(tiny_model(), tmp_path / "whole", 0, r=2, target_modules=["q_proj"])
    inner = make(tiny_model().model, tmp_path / "inner", 1, r=2, target_modules=["q_proj"], task_type=None)
    for loras in ({"one": whole, "other": inner}, {"one": inner, "other": whole}):
        with pytest.raises(UserError, match=r"whole has a layer model\.layers.*inner layers.*different classes"):
            loraweave.assemble(loras, tmp_path / "all")


def test_a_lora_on_a_convolution_is_refused_by_name(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.line = nn.Conv1d(4, 4, 3), nn.Linear(4, 4)

    plain = {"task_type": None, "r": 2}
    line = make(Both(), tmp_path / "line", 0, target_modules=["line"], **plain)
    both = make(Both(), tmp_path / "both", 1, target_modules=["line", "conv"], **plain)
    with pytest.raises(UserError, match=r"both: .*conv\.lora_\w.*belongs to no linear layer, cannot become a head"):
        loraweave.assemble({"line": line, "both": both}, tmp_path / "all")


def test_sparsify_keeps_the_largest_of_each_head_over_all_layers(tiny_model: Callable, tmp_path: Path) -> None:
    model = adapted(tiny_model(), "lori", r=4)
    model.save_pretrained(str(tmp_path / "dense"))
    folder = loraweave.sparsify(tmp_path / "dense", 0.1, tmp_path / "sparse")
    dense, sparse = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "dense", folder))
    ups = [name for name in dense if name.endswith("weave_B")]
    for head in range(2):
        sizes = torch.cat([dense[name][head].abs().flatten() for name in ups])
        kept = torch.cat([sparse[name.replace("weave_B", "weave_B_mask")][head].flatten() for name in ups])
        assert kept.dtype == torch.bool
        assert int(kept.sum()) == round(0.1 * len(sizes))
        assert sizes[kept].min() >= sizes[~kept].max()
    assert all(torch.equal(sparse[name], dense[name]) for name in dense if name.endswith("weave_A"))

    base = logits(tiny_model(), None)
    trained = PeftModel.from_pretrained(tiny_model(), str(folder), is_trainable=True)
    torch.testing.assert_close(logits(trained.eval(), "a"), base)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        trained(input_ids=IDS, labels=IDS, tasks="a").loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.save_pretrained(str(tmp_path / "again"))
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    for name in ups:
        mask = sparse[name.replace("weave_B", "weave_B_mask")]
        assert torch.equal(again[name.replace("weave_B", "weave_B_mask")], mask)
        assert not again[name][~mask].any()
    assert any(again[name].any() for name in ups)
    assert (logits(trained.eval(), "a") - base).abs().max() > 1e-3
    for density in (0.0, 1.0, True):
        with pytest.raises(UserError, match="density must be"):
            loraweave.sparsify(tmp_path / "dense", density, tmp_path / "other")


def test_every_two_are_held_against_each_other(tiny_model: Callable, loras: dict[str, Path], tmp_path: Path) -> None:
    """The first has neither the layer that differs nor a base's name."""
    wider = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4)
    other = make(LlamaForCausalLM(wider), tmp_path / "other", 0, r=2, target_modules=["up_proj"])
    with pytest.raises(UserError, match=r"up_proj is 32 → 56, in .*wide 32 → 48: they are of different bases"):
        loraweave.assemble({**loras, "other": other}, tmp_path / "all")
    named = [make(tiny_model(), tmp_path / name, 0, r=2, target_modules=["q_proj"]) for name in ("x", "y")]
    for folder in named:
        config = LoraConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = f"base-of-{folder.name}"
        config.save_pretrained(str(folder))
    together = {"small": loras["small"], "x": named[0], "y": named[1]}
    with pytest.raises(UserError, match=r"y is of the base base-of-y, .*x of base-of-x; .* --base base-of-x"):
        loraweave.assemble(together, tmp_path / "all")
    folder = loraweave.assemble(together, tmp_path / "same", base="base-of-x")
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "base-of-x"
    folder = loraweave.assemble({"small": loras["small"], "x": named[0]}, tmp_path / "all")
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "base-of-x"


def test_split_names_its_folders_apart_and_writes_all_or_none(
    tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(tiny_model(), "own", task_names=["a/b", "a_b"]).save_pretrained(str(tmp_path / "all"))
    parts = loraweave.split(tmp_path / "all", tmp_path / "parts")
    assert [path.name for path in parts.values()] == ["a_b", "a_b-2"]
    assert all((path / "adapter_model.safetensors").is_file() for path in parts.values())
    written = []

    def fail_at_the_second(*args: Any) -> None:
        written.append(args)
        if len(written) == 2:
            raise UserError("no more")

    monkeypatch.setattr("loraweave.adapters.assemble.fill", fail_at_the_second)
    with pytest.raises(UserError, match="no more"):
        loraweave.split(tmp_path / "all", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "knobs", [{"layers_to_transform": [1], "target_modules": ["v_proj", "q_proj"]}, {"modules_to_save": ["lm_head"]}]
)
def test_sparsify_takes_adapters_of_some_layers_and_of_more(
    tiny_model: Callable, tmp_path: Path, knobs: dict[str, Any]
) -> None:
    model = adapted(tiny_model(), "lori", **knobs)
    model.save_pretrained(str(tmp_path / "dense"))
    sparse = AdapterFile(loraweave.sparsify(tmp_path / "dense", 0.1, tmp_path / "sparse"))
    assert {tuple(sparse.tensors(layer)["B_mask"].shape) for layer in sparse.sizes} == {
        tuple(sparse.tensors(layer)["B"].shape) for layer in sparse.sizes
    }
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "sparse"), is_trainable=True)
    assert any(p.requires_grad for p in loaded.parameters())


def test_the_commands(loras: dict[str, Path], tmp_path: Path) -> None:
    given = [f"{name}={folder}" for name, folder in loras.items()]
    whole, parts = tmp_path / ("all-of-them-" * 12), tmp_path / ("parts-of-it-" * 12)  # longer than a line
    run = CliRunner().invoke(app, ["assemble", *given, "--output", str(whole)], catch_exceptions=False)
    assert run.output == f"{whole}: 3 heads, gate own\n"
    run = CliRunner().invoke(app, ["split", str(whole), "--output", str(parts)])
    assert sorted(run.output.splitlines()) == sorted(f"{name}: {parts / name}" for name in loras)
    assert sorted(path.name for path in parts.iterdir()) == sorted(loras)
    with pytest.raises(UserError, match="NAME=FOLDER"):
        CliRunner().invoke(app, ["assemble", "x", "--output", str(tmp_path / "b")], catch_exceptions=False)
    with pytest.raises(UserError, match="named twice"):
        CliRunner().invoke(app, ["assemble", given[0], given[0], "--output", "b"], catch_exceptions=False)


def test_a_base_that_lies_here_is_named_by_its_whole_path(loras, tmp_path, monkeypatch):
    """So that its name is right wherever the adapter is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    folder = loraweave.assemble(loras, tmp_path / "out", base="mine")
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / "mine")
