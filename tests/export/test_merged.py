"""Full weights out of every method: read by transformers alone, they say what the adapter says."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_project import byte_tokenizer
from tiny_runs import BY_TASK, EXACT, NAMES, SMALL, random_run
from tiny_seeing import seeing
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


def test_what_a_base_that_sees_has_beside_its_weights_goes_with_it(project, tmp_path):
    """Without it transformers and vLLM have no processor for images."""
    base = tmp_path / "sees"
    seeing().to(torch.bfloat16).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    config["text_config"].pop("dtype", None)  # as on the hub
    (base / "config.json").write_text(json.dumps(config))
    settings = {"name": "lora", **SMALL, "target_modules": r".*language_model.*q_proj"}
    run = random_run(project, settings, tmp_path / "run", base=base)
    (each,) = export(run, "merged", tmp_path / "without")
    rounded = "added in float32 and rounded to bfloat16"
    lacks = (
        f"{base} reads more than text, and its files for that (preprocessor_config.json and the like) are not at hand"
    )
    assert each.notes == (lacks, rounded)
    assert {w.dtype for w in load_file(each.path / "model.safetensors").values()} == {torch.bfloat16}
    (base / "preprocessor_config.json").write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
    (each,) = export(run, "merged", tmp_path / "with")
    assert each.notes == (rounded,)
    assert json.loads((each.path / "config.json").read_text())["text_config"]["rope_theta"] == 1000000.0
    assert (each.path / "preprocessor_config.json").read_text() == (base / "preprocessor_config.json").read_text()


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


TOKENS = [5, 6]
"""Tokens of the tests' texts."""
ENDS = {
    "tokens of the head alone": {"trainable_token_indices": {"lm_head": TOKENS}},
    "tokens of both": {"trainable_token_indices": TOKENS},
    "other tokens of each": {"trainable_token_indices": {"embed_tokens": TOKENS, "lm_head": TOKENS[:1]}},
    "tokens below factors": {"trainable_token_indices": TOKENS, "target_modules": ["q_proj", "lm_head"]},
    "the head whole": {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
    "both tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("kind", ENDS)
def test_whatever_was_trained_of_embeddings_and_head_is_merged_into_what_it_is_meant_for(project, tmp_path, kind):
    lora = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **ENDS[kind]})
    model = get_peft_model(load_base(project / "base")[0], lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(str(tmp_path / "adapter"))
    (each,) = export(tmp_path / "adapter", "merged", tmp_path / "out", base=str(project / "base"))

    def said(by: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return by.eval()(input_ids=torch.tensor([[*TOKENS, 9, *TOKENS]])).logits

    expected = said(PeftModel.from_pretrained(load_base(project / "base")[0], str(tmp_path / "adapter")))
    merged = AutoModelForCausalLM.from_pretrained(each.path, dtype=torch.float32)
    torch.testing.assert_close(said(merged), expected, rtol=0, atol=1e-4)
    assert ("lm_head.weight" not in load_file(each.path / "model.safetensors")) == merged.config.tie_word_embeddings
    assert merged.config.tie_word_embeddings == (kind in ("tokens of both", "both tied"))


@pytest.mark.parametrize(
    ("settings", "said"), [({"lora_bias": True}, "no bias"), ({"layer_replication": [[0, 2], [1, 2]]}, "other layers")]
)
def test_what_no_merged_model_can_hold_is_told(project, tmp_path, settings, said: str):
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    get_peft_model(load_base(project / "base")[0], lora).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=said):
        export(tmp_path / "adapter", "merged", tmp_path / "out", base=str(project / "base"))
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_refused_and_the_cure_named(project, tmp_path):
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    quantised = tmp_path / "quantised"
    load_base(project / "base")[0].save_pretrained(quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--base"):
        export(run, "merged", tmp_path / "out", base=str(quantised))


def test_a_base_whose_generation_config_contradicts_itself_is_merged_into(project, finished, tmp_path):
    base, tokenizer = load_base(project / "base")
    base.save_pretrained(tmp_path / "base")
    tokenizer.pad_token = tokenizer.eos_token  # another than the base's
    tokenizer.save_pretrained(tmp_path / "base")
    said = {"do_sample": False, "temperature": 0.6}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(said))
    (each,) = export(finished({"name": "lora", **SMALL}), "merged", tmp_path / "out", base=str(tmp_path / "base"))
    assert said.items() <= json.loads((each.path / "generation_config.json").read_text()).items()


def test_files_that_are_edited_are_an_exports_own(project, finished, tmp_path):
    made = export(finished({"name": "mtllora", **SMALL}), "merged", tmp_path / "out")
    folders = [project / "base", *(each.path for each in made[1:])]
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(made[0].path)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(made[0].path)
    model = AutoModelForCausalLM.from_pretrained(made[0].path)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(made[0].path)
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before


def test_weights_that_are_equal_are_linked(tmp_path):
    for folder, files in {"one": "aab", "two": "acab"}.items():
        (tmp_path / folder).mkdir()
        for number, content in enumerate(files):
            (tmp_path / folder / f"{number}.safetensors").write_text(content)
        (tmp_path / folder / "config.json").write_text("{}")
    link_equal(tmp_path / "two", [tmp_path / "one", tmp_path / "absent"])
    assert [p.read_text() for p in sorted((tmp_path / "two").glob("*.safetensors"))] == list("acab")
    linked = {p.name for p in (tmp_path / "two").iterdir() if p.stat().st_nlink > 1}
    assert linked == {"0.safetensors", "2.safetensors", "3.safetensors"}
