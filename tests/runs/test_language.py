"""A base that also sees is adapted where text goes: in its language model alone, and that is said."""

import io
import json
import re
from pathlib import Path

import peft
import pytest
import torch
from rich.console import Console
from tiny_project import byte_tokenizer, write_project
from tiny_seeing import seeing
from transformers import MllamaForConditionalGeneration
from transformers.models.mllama.configuration_mllama import MllamaConfig, MllamaTextConfig, MllamaVisionConfig

from loraweave.errors import UserError
from loraweave.estimate.counting import count_trainable
from loraweave.estimate.dry_run import dry_run
from loraweave.runs.adapting import adapted
from loraweave.runs.config import RunConfig
from loraweave.runs.language import beside_language, language_notice, leaving_out
from loraweave.runs.methods import choose_method
from loraweave.training.run import train

TOWER = ["model.vision_tower", "model.multi_modal_projector"]


@pytest.mark.parametrize("method", ["lora", "hydralora", {"name": "lora", "bias": "all"}, "full"])
def test_the_language_model_alone_is_trained(method: str | dict) -> None:
    base = seeing()
    assert beside_language(base) == TOWER
    chosen = choose_method(method)
    with adapted(base, chosen, ["one"], seed=0, keep_base=True) as model:
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained
        assert not any("vision_tower" in name or "projector" in name for name in trained)
        assert sum("language_model" in name for name in trained) >= len(trained) - 1  # and the head, in full
        if isinstance(method, str):
            total = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert total == count_trainable(method, base, ["one"])
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_named_layers_are_those_of_the_language_model(tmp_path: Path) -> None:
    base = seeing()
    spec = {"name": "lora", "target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.v_proj"]}
    with adapted(base, choose_method(spec), ["one"], seed=0, keep_base=True) as model:
        found = {name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
        model.save_pretrained(tmp_path)
    layers = "model.language_model.layers"
    assert found == {f"{layers}.0.self_attn.q_proj", f"{layers}.0.self_attn.v_proj", f"{layers}.1.self_attn.q_proj"}
    again = peft.PeftModel.from_pretrained(seeing(), tmp_path)  # by plain PEFT
    assert {name for name, module in again.base_model.model.named_modules() if hasattr(module, "lora_A")} == found


def test_layers_that_attend_to_images_are_left_out() -> None:
    text = MllamaTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=[1],
        pad_token_id=0,
    )
    vision = MllamaVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_global_layers=1,
        attention_heads=2,
        image_size=16,
        patch_size=8,
        intermediate_layers_indices=[0],
        vision_output_dim=32,
    )
    base = MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=vision))
    parts = beside_language(base)
    assert parts == ["model.vision_model", "model.multi_modal_projector", "model.language_model.layers.1"]
    with adapted(base, choose_method("lora"), ["one"], seed=0, keep_base=True) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.ones_(parameter)
        model(input_ids=torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_base_of_text_is_adapted_whole(tiny_model) -> None:
    assert beside_language(tiny_model()) == []
    assert language_notice(tiny_model()) is None
    assert choose_method("lora").peft_config(["one"], tiny_model()).exclude_modules is None


def test_what_is_left_out_already_stays_out() -> None:
    pattern = leaving_out(["model.eye"], ["up_proj"])
    assert all(re.fullmatch(pattern, key) for key in ("up_proj", "a.b.up_proj", "model.eye", "model.eye.layers.0"))
    assert not any(re.fullmatch(pattern, key) for key in ("a.bup_proj", "a.model.eye", "model.eyes", "up_proj.x"))
    pattern = leaving_out(["eye"], r".*\.0\..*")
    assert re.fullmatch(pattern, "a.0.b")
    assert re.fullmatch(pattern, "eye.x")


def test_a_part_in_a_list_of_layers_is_refused_with_what_works() -> None:
    base = seeing()
    chosen = choose_method({"name": "lora", "exclude_modules": ["mlp"]})
    with pytest.raises(UserError, match="'mlp', which is a part of the base and no layer") as caught:
        adapted(base, chosen, ["one"], seed=0, keep_base=True).__enter__()
    pattern = str(caught.value).rpartition("exclude_modules: ")[2].strip("'")
    chosen = choose_method({"name": "lora", "exclude_modules": pattern})
    with adapted(base, chosen, ["one"], seed=0, keep_base=True) as model:
        found = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
        assert found
        assert not any(".mlp." in name for name in found)


def test_a_run_on_text_says_it(tmp_path: Path) -> None:
    write_project(tmp_path)
    seeing().save_pretrained(tmp_path / "sees")
    byte_tokenizer().save_pretrained(tmp_path / "sees")
    config = RunConfig(
        model=str(tmp_path / "sees"),
        method="hydralora",
        tasks=["parity.yaml"],
        train={"max_steps": 2, "max_length": 64, "report_to": "none"},
        base_dir=tmp_path,
    )
    said = [io.StringIO(), io.StringIO()]
    planned = dry_run(config, tmp_path / "out", Console(file=said[0], width=200))
    done = train(config, tmp_path / "out", console=Console(file=said[1], width=200))
    for text in said:
        notice = "gemma3: the language model alone is trained; text never reaches model.vision_tower, "
        assert text.getvalue().count(notice) == 1
    assert done.trainable_parameters == planned.trainable
    assert planned.memory
    assert not planned.memory_unknown
    (tmp_path / "sees" / "preprocessor_config.json").write_text("{}")
    full = train(config.model_copy(update={"method": "full"}), tmp_path / "full", console=Console(file=io.StringIO()))
    assert full.adapter is not None
    assert (full.adapter / "preprocessor_config.json").is_file()
    assert json.loads((full.adapter / "config.json").read_text())["text_config"]["rope_theta"] == 1000000.0
