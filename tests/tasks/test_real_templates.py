"""The chat templates of public models, as TRL ships them: what they print of a conversation is learned, or refused."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trl

from loraweave.errors import UserError
from loraweave.tasks import Example
from loraweave.tasks.chat import render
from loraweave.tasks.template import folded
from loraweave.tasks.thoughts import opens_thought

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
    whole = text.prompt + text.opening + text.completion + text.closing
    assert all(word in whole for word in words)
    messages = [*example.prompt, *example.completion]
    forms = [messages, folded(messages), [{**m, "role": m["role"].replace("developer", "system")} for m in messages]]
    forms += [[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in form] for form in forms]
    rendered = []
    for form in forms:
        try:
            rendered.append(tokenizer.apply_chat_template(form, tools=example.tools, tokenize=False))
        except Exception:  # some of these templates know neither role
            continue
    if opens_thought(text.prompt):  # the template may leave its own thought out, or write it in another way
        assert (text.opening or text.completion).startswith("\n</think>" if text.opening else "Clouds gather.")
        whole, rendered = without_thoughts(whole), [*map(without_thoughts, rendered)]
    assert whole in rendered


def without_thoughts(text: str) -> str:
    return re.sub(r"<think>\s*(Clouds gather\.)?\s*</think>\s*", "", text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_answers_are_learned_with_and_without_a_thought_where_prompts_open_one(
    file: Path, tokenizers: dict[str, Any]
) -> None:
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    try:
        prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # these want parts of content, or more than text
        pytest.skip(str(error))
    if not opens_thought(prompt):
        return
    bare = render(Example([USER], [ANSWER]), tokenizer)
    assert (bare.prompt, bare.completion) == (prompt, "It may.")
    assert bare.opening.endswith("</think>\n\n") or bare.opening.endswith("</think>")
    thinking = render(Example([USER], [THINKING]), tokenizer)
    assert (thinking.prompt, thinking.opening) == (prompt, "")
    assert without_thoughts(f"<think>{thinking.completion}") == "It may."
    assert thinking.completion.endswith("It may.")
    assert render(Example([USER], "It may."), tokenizer).opening == bare.opening


@pytest.mark.parametrize("name", ["deepseekv3"])
def test_arguments_are_text_for_templates_that_can_print_nothing_else(name: str, tokenizers: dict[str, Any]) -> None:
    (file,) = [file for file in FILES if file.stem == name] or pytest.skip(f"TRL ships no {name}")
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    call, result = KINDS["call"][0], KINDS["result"][0]
    assert '```json\n{"town": "Ghent"}\n```' in render(replace(call, tools=None), tokenizer).completion
    assert '```json\n{"town": "Ghent"}\n```' in render(replace(result, tools=None), tokenizer).prompt


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


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava_next"])
def test_texts_are_parts_for_templates_that_print_nothing_else(name: str, tokenizers: dict[str, Any]) -> None:
    (file,) = [file for file in FILES if file.stem == name] or pytest.skip(f"TRL ships no {name}")
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    text = render(Example([USER], [ANSWER]), tokenizer)
    assert text.completion == " It may."
    assert "Will it rain?" in text.prompt
    again = render(Example([SYSTEM, USER, ANSWER, USER], "It may."), tokenizer)
    assert "Speak in riddles." in again.prompt
    assert again.closing == text.closing
