"""What lies beside an adapter's configuration."""

import json
from pathlib import Path

import pytest
from tiny_project import byte_tokenizer
from transformers import AutoTokenizer

from loraweave.adapters.config import tokenizer_differences


def test_of_a_tokenizer_with_several_chat_templates_the_one_for_chats_is_compared(tmp_path: Path) -> None:
    """As Command R's, which has one for tools too."""
    tokenizer = byte_tokenizer()
    said = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.chat_template = {"default": said, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    base = AutoTokenizer.from_pretrained(tmp_path)
    assert base.chat_template.keys() == {"default", "tool_use"}
    assert not tokenizer_differences(tmp_path, base)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}" + said)
    assert tokenizer_differences(tmp_path, base) == "another chat template"


@pytest.mark.parametrize("older", [False, True])
def test_tokens_that_were_added_to_the_one_beside_an_adapter_are_named(tmp_path: Path, older: bool) -> None:
    """Into rows that a base has to spare, as Qwen's have, so that no size tells; not the one for padding."""
    base, tokenizer = byte_tokenizer(), byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_differences(tmp_path, base) == ""
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_differences(tmp_path, base) == ""
    tokenizer.add_tokens(["<user>", "<bot>", "<tool>", "<end>"], special_tokens=True)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(tmp_path)
    if older:  # as transformers 4 writes it
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {
            str(number): {"content": token.content} for number, token in tokenizer.added_tokens_decoder.items()
        }
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "tokenizer.json").unlink()
    said = "other tokens ('<user>', '<bot>', '<tool>' and 1 more) and another chat template"
    assert tokenizer_differences(tmp_path, base) == said
