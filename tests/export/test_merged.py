"""Full weights out of every method: read by transformers alone, they say what the adapter says."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import BY_TASK, EXACT, NAMES, SMALL, random_run
from transformers import AutoModelForCausalLM, AutoTokenizer

import loraweave
from loraweave.bases import load_base
from loraweave.errors import UserError
from loraweave.export import export
from loraweave.export.merged import link_equal
from loraweave.runs.attaching import attach

IDS = torch.randint(3, 250, (3, 20), generator=torch.Generator().manual_seed(1))
MERGING = [*EXACT, "dora"]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", MERGING)
def test_transformers_alone_says_the_same(project, finished: Callable[..., Path], tmp_path, name: str):
    run = finished({"name": name, **SMALL})
    made = export(run, "merged", tmp_path / "out")
    assert [each.variant.task for each in made] == (NAMES if name in BY_TASK else [None])
    for each in made:
        model = attach(load_base(project / "base")[0], run / "adapter").eval()
        with loraweave.task(model, each.variant.task) if each.variant.task else contextlib.nullcontext():
            expected = logits(model)
        merged = AutoModelForCausalLM.from_pretrained(each.path, dtype=torch.float32)
        torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-4)
        assert AutoTokenizer.from_pretrained(each.path)("abc") == AutoTokenizer.from_pretrained(project / "base")("abc")
        assert json.loads((each.path / "export.json").read_text())["to"] == "merged"


def test_a_base_in_half_precision_is_added_to_in_float32_and_rounded_once(project, tmp_path):
    folder = tmp_path / "half"
    base, tokenizer = load_base(project / "base")
    base.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / "run")
    (each,) = export(run, "merged", tmp_path / "out", base=str(folder))
    merged = AutoModelForCausalLM.from_pretrained(each.path, dtype="auto")
    assert merged.dtype == torch.bfloat16
    assert "rounded to bfloat16" in (each.path / "README.md").read_text()
    adapted = attach(load_base(folder, "float32")[0], run / "adapter").merge_and_unload()
    for (name, found), (other, wanted) in zip(
        merged.named_parameters(), adapted.to(torch.bfloat16).named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-6)  # one unit in the last place at most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_that_leaves_the_update_out_is_found(project, tmp_path, monkeypatch, dtype: torch.dtype):
    folder = tmp_path / "base"
    base, tokenizer = load_base(project / "base")
    base.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for size in (0.2, 0.02):
        run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / f"run-{size}", size=size)
        with monkeypatch.context() as patch:
            patch.setattr("loraweave.export.merged.merged_weight", lambda weight, changes, safe: weight)
            with pytest.raises(UserError, match=r"does (not do|-?0% of) what the adapter does"):
                export(run, "merged", tmp_path / f"out-{size}", base=str(folder))
        assert not (tmp_path / f"out-{size}").exists()


def test_a_change_too_small_for_the_bases_numbers_is_told(project, tmp_path):
    folder = tmp_path / "half"
    base, tokenizer = load_base(project / "base")
    base.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run", size=1e-3)
    with pytest.raises(UserError, match="too small for them: export --to lora keeps it"):
        export(run, "merged", tmp_path / "out", base=str(folder))
    (each,) = export(run, "lora", tmp_path / "lora", base=str(folder))
    assert each.exact


def test_weights_that_are_one_are_written_once(project, tmp_path):
    folder = tmp_path / "half"
    base, tokenizer = load_base(project / "base")
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"name": "lora", **SMALL, "target_modules": ["q_proj"]}
    (each,) = export(random_run(project, settings, tmp_path / "run"), "merged", tmp_path / "out", base=str(folder))
    assert "lm_head.weight" not in load_file(each.path / "model.safetensors")


def test_a_router_is_merged_for_a_task_at_a_cost_that_is_measured(finished, tmp_path):
    run = finished({"name": "hydralora", **SMALL})
    with pytest.raises(UserError, match="--task NAME"):
        export(run, "merged", tmp_path / "none")
    (each,) = export(run, "merged", tmp_path / "out", tasks=["double"], limit=4)
    assert each.differences["double"].kl > 0


def test_modules_trained_whole_are_merged_too(project, tmp_path):
    run = random_run(project, {"name": "lora", **SMALL, "bias": "all"}, tmp_path / "run")
    (each,) = export(run, "merged", tmp_path / "out")
    assert each.largest <= 1e-4


def test_a_head_that_shares_its_weight_with_the_embeddings_parts_from_them(project, tmp_path):
    run = random_run(project, {"name": "multilora", **SMALL, "target_modules": ["lm_head"]}, tmp_path / "run")
    (each,) = export(run, "merged", tmp_path / "out")
    assert each.largest <= 1e-4
    merged, base = AutoModelForCausalLM.from_pretrained(each.path), load_base(project / "base")[0]
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert not torch.equal(merged.get_output_embeddings().weight, base.get_output_embeddings().weight)
    (plain,) = export(run, "lora", tmp_path / "lora")
    assert plain.largest <= 1e-5


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["embed_tokens", "lm_head"]], ids=str)
def test_embeddings_that_are_adapted_part_from_the_head(project, tmp_path, targets):
    run = random_run(project, {"name": "lora", **SMALL, "target_modules": targets}, tmp_path / "run")
    (each,) = export(run, "merged", tmp_path / "out")
    assert each.largest <= 1e-4
    expected = logits(attach(load_base(project / "base")[0], run / "adapter").eval())
    merged = AutoModelForCausalLM.from_pretrained(each.path, dtype=torch.float32)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-4)
    assert not merged.config.tie_word_embeddings  # which is all that others than transformers go by


def test_a_quantised_base_is_refused_and_the_cure_named(project, tmp_path):
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    quantised = tmp_path / "quantised"
    load_base(project / "base")[0].save_pretrained(quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--base"):
        export(run, "merged", tmp_path / "out", base=str(quantised))


def test_what_is_equal_is_linked(project, finished, tmp_path):
    made = export(finished({"name": "mtllora", **SMALL}), "merged", tmp_path / "out")
    base = project / "base"
    for each in made:
        assert (each.path / "tokenizer.json").samefile(base / "tokenizer.json") or (
            (each.path / "tokenizer.json").read_bytes() != (base / "tokenizer.json").read_bytes()
        )
    assert len({(each.path / "tokenizer.json").stat().st_ino for each in made}) == 1
    assert len({(each.path / "model.safetensors").stat().st_ino for each in made}) == 3


def test_links_change_no_contents(tmp_path):
    for folder, files in {"one": {"a": "1", "b": "2"}, "two": {"a": "1", "b": "3", "c": "1"}}.items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    link_equal(tmp_path / "two", [tmp_path / "one", tmp_path / "absent"])
    assert {p.name: p.read_text() for p in (tmp_path / "two").iterdir()} == {"a": "1", "b": "3", "c": "1"}
    assert (tmp_path / "two" / "a").samefile(tmp_path / "one" / "a")
    assert not (tmp_path / "two" / "b").samefile(tmp_path / "one" / "b")
