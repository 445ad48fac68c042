"""Every example on the page about experts runs as it stands, one after the other, on a small base."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_experts import count_words
from tiny_project import write_base
from transformers import AutoModelForCausalLM

from loraweave import ExpertLibrary

PAGE = Path(__file__).resolve().parents[2] / "docs" / "experts.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loraweave.experts.routing.default_embedding", lambda: count_words)  # no weights to fetch
    base = tmp_path / "base"
    write_base(base)
    for seed, folder in enumerate(("runs/boolq", "summaries")):
        torch.manual_seed(seed)
        config = LoraConfig(r=2 + seed, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    ExpertLibrary.create("library", str(base)).add("summaries", description="Summarise a text")
    names: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    assert list(names["library"].experts()) == ["summaries", "boolq"]
    assert names["manager"].experts == ["summaries", "boolq"]
