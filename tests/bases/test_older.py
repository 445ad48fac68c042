"""A saved configuration says how positions are turned, and its dtype, under the names that older readers look for."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import byte_tokenizer
from transformers import AutoConfig, AutoTokenizer

from loraweave.bases.older import write_for_older
from loraweave.data.identity import tokenizer_hash

LONG = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
KINDS: dict[
    str, tuple[str, dict[str, Any], dict[str, Any]]
] = {  # as the hub has these bases, from before transformers 5
    "mistral": ("mistral", {"rope_theta": 1000000.0}, {"rope_theta": 1000000.0}),
    "llama 3.1": (
        "llama",
        {"rope_theta": 500000.0, "rope_scaling": LONG},
        {"rope_theta": 500000.0, "rope_scaling": LONG},
    ),
    "phi 2": ("phi", {"partial_rotary_factor": 0.4}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.4}),
    "pythia": (
        "gpt_neox",
        {"rotary_pct": 0.5, "rotary_emb_base": 20000},
        {"rotary_pct": 0.5, "rotary_emb_base": 20000},
    ),
    "gemma 3": (
        "gemma3_text",
        {"rope_theta": 1000000.0, "rope_local_base_freq": 20000.0},
        {"rope_theta": 1000000.0, "rope_local_base_freq": 20000.0},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_older_names_are_there_and_nothing_else_is_read_from_them(tmp_path: Path, kind: str) -> None:
    model_type, given, wanted = KINDS[kind]
    AutoConfig.for_model(
        model_type, **copy.deepcopy(given), max_position_embeddings=131072, dtype="bfloat16"
    ).save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path)
    write_for_older(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert {key: content.get(key) for key in wanted} == wanted
    assert content["torch_dtype"] == content["dtype"] == "bfloat16"
    assert ("rope_scaling" in content) == ("rope_scaling" in wanted)
    after = AutoConfig.from_pretrained(tmp_path)
    assert after.rope_parameters == before.rope_parameters
    assert after.dtype == torch.bfloat16
    write_for_older(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == content


def test_of_a_base_that_also_sees_it_stands_with_its_language_model(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    write_for_older(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["text_config"]["rope_theta"] == 1000000.0
    assert "rope_theta" not in content


@pytest.mark.parametrize("tokens", [[], ["<a>", "<b>"]])
def test_a_tokenizer_is_called_as_older_readers_call_it_and_read_as_before(tmp_path: Path, tokens: list[str]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": tokens})
    tokenizer.save_pretrained(tmp_path)
    write_for_older(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert content["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in content  # a mapping to older readers
    assert content.get("additional_special_tokens", []) == tokens
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert again("yes <a>no")["input_ids"] == tokenizer("yes <a>no")["input_ids"]
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)


def test_a_base_without_such_positions_is_left_as_it_is(tmp_path: Path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    write_for_older(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == before
