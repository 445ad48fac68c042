"""What lies beside an adapter's configuration."""

from pathlib import Path

from tiny_project import byte_tokenizer
from transformers import AutoTokenizer

from loraweave.adapters.config import has_other_template


def test_of_a_tokenizer_with_several_chat_templates_the_one_for_chats_is_compared(tmp_path: Path) -> None:
    """As Command R's, which has one for tools too."""
    tokenizer = byte_tokenizer()
    said = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.chat_template = {"default": said, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    base = AutoTokenizer.from_pretrained(tmp_path)
    assert base.chat_template.keys() == {"default", "tool_use"}
    assert not has_other_template(tmp_path, base)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}" + said)
    assert has_other_template(tmp_path, base)
