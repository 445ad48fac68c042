"""The chat templates of public models, as TRL ships them: what they print of a conversation is learned, or refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import trl

from loraweave.errors import UserError
from loraweave.tasks import Example
from loraweave.tasks.chat import render
from loraweave.tasks.template import folded

FILES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
FILES = [file for file in FILES if not file.stem.endswith("_training")]  # the same, with marks for TRL
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "Which"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ghent"}}}
SYSTEM = {"role": "system", "content": "Speak in riddles."}
USER = {"role": "user", "content": "Will it rain?"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "weather", "content": "drizzle"}
ANSWER = {"role": "assistant", "content": "It may."}
THINKING = {**ANSWER, "reasoning_content": "Clouds gather."}

KINDS = {
    "system": (Example([SYSTEM, USER], [ANSWER]), ["Speak in riddles.", "Will it rain?", "It may."]),
    "developer": (Example([{**SYSTEM, "role": "developer"}, USER], [ANSWER]), ["Speak in riddles.", "It may."]),
    "call": (Example([USER], [CALLING], tools=[TOOL]), ["weather", "Ghent", "Which"]),
    "result": (Example([USER, CALLING, RESULT], [ANSWER], tools=[TOOL]), ["Ghent", "drizzle", "It may."]),
    "thoughts": (Example([USER], [THINKING]), ["Clouds gather.", "It may."]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_is_lost(file: Path, kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    example, words = KINDS[kind]
    try:
        text = render(example, tokenizer)
    except UserError:
        return
    whole = text.prompt + text.completion + text.closing
    assert all(word in whole for word in words)
    messages = [*example.prompt, *example.completion]
    forms = [messages, folded(messages), [{**m, "role": m["role"].replace("developer", "system")} for m in messages]]
    rendered = []
    for form in forms:
        try:
            rendered.append(tokenizer.apply_chat_template(form, tools=example.tools, tokenize=False))
        except Exception:  # some of these templates know neither role
            continue
    assert whole in rendered


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "glm4moe", "gptoss"])
def test_templates_that_know_functions_print_calls(name: str, tokenizers: dict[str, Any]) -> None:
    (file,) = [file for file in FILES if file.stem == name] or pytest.skip(f"TRL ships no {name}")
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    call = render(KINDS["call"][0], tokenizer)
    assert "weather" in call.completion
    assert "Ghent" in call.completion
    assert "drizzle" in render(KINDS["result"][0], tokenizer).prompt


@pytest.mark.parametrize("name", ["gemma", "gemma3", "llama3", "phi3"])
def test_templates_that_know_no_functions_are_refused(name: str, tokenizers: dict[str, Any]) -> None:
    (file,) = [file for file in FILES if file.stem == name] or pytest.skip(f"TRL ships no {name}")
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    for kind in ("call", "result"):
        with pytest.raises(UserError, match="tool_calls"):
            render(KINDS[kind][0], tokenizer)
