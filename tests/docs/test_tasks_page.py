"""Every example on the page about tasks runs as it stands, one after the other."""

import re
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from tiny_project import byte_llama, byte_tokenizer

from loraweave import MtlLoraConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"


@pytest.mark.long
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "left"
    model = get_peft_model(byte_llama(), MtlLoraConfig(task_names=["sum", "shout"], task_type="CAUSAL_LM"))
    names: dict[str, Any] = {"model": model, "tokenizer": tokenizer}
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 8
    for example in examples:
        example = example.replace('report_to="none"', 'report_to="none", use_cpu=True')  # TRL wants to be told
        exec(compile(example, str(PAGE), "exec"), names)
    assert names["y"].shape == (3, 5, 32)
