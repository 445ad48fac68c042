"""What chat messages may hold: turns that are masked, functions and calls, thoughts, parts; the rest is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_tasks import write_jsonl

from loraweave.data.encode import IGNORED, encode, encode_all
from loraweave.errors import UserError
from loraweave.tasks import Example, load_tasks
from loraweave.tasks.chat import render
from loraweave.tasks.files import read_rows
from loraweave.tasks.messages import without_filling

TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": 3}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CALLING = [
    user("Weather in town 3?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": '{"sky": "clear"}'},
    assistant("It is clear."),
]


@pytest.fixture
def chat(tokenizers: dict[str, Any]) -> Callable[[str], Any]:
    """The chat tokenizer with another template."""

    def build(template: str) -> Any:
        tokenizer = copy.deepcopy(tokenizers["chat"])
        tokenizer.chat_template = template
        return tokenizer

    return build


def examples_of(row: dict[str, Any], folder: Path) -> list[Example]:
    other = [user("another"), assistant("b")]
    beside = {"messages": other} if "messages" in row else {"prompt": other[:1], "completion": other[1:]}
    write_jsonl(folder / "mine.jsonl", [row, beside])
    (task,) = load_tasks([{"task": "mine.jsonl", "validation": 0.5}], folder)
    found = task.training_examples() + task.validation_examples()
    return [example for example in found if example.prompt != other[:1]]


def learned(example: Example, tokenizer: Any) -> str:
    row = encode(example, tokenizer, 4096)
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED]))


@pytest.mark.parametrize("mask", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": False}])
def test_a_masked_turn_is_context_alone(mask: dict[str, Any], tmp_path: Path) -> None:
    turns = [user("0+1?"), assistant("no idea", **mask), user("again"), assistant("1", weight=1)]
    (example,) = examples_of({"messages": turns}, tmp_path)
    assert [message["content"] for message in example.prompt] == ["0+1?", "no idea", "again"]
    assert example.completion[0]["content"] == "1"


def test_masked_turns_of_the_cases_are_never_learned(shared: Path, tokenizers: dict[str, Any]) -> None:
    (task,) = load_tasks(["weights.jsonl"], shared / "cases")
    examples = task.training_examples() + task.validation_examples() + task.test_examples()
    assert len(examples) == len((shared / "cases" / "weights.jsonl").read_text().splitlines())
    assert not any("idea" in learned(example, tokenizers["chat"]) for example in examples)


def test_a_users_turn_inside_a_completion_is_not_learned(tmp_path: Path, tokenizers: dict[str, Any]) -> None:
    row = {"prompt": [user("a")], "completion": [assistant("first"), user("c"), assistant("second")]}
    first, second = examples_of(row, tmp_path)
    assert [m["content"] for m in second.prompt] == ["a", "first", "c"]
    assert learned(first, tokenizers["chat"]).strip() == "first<|im_end|>"
    assert learned(second, tokenizers["chat"]).strip() == "second<|im_end|>"


def test_calls_of_functions_are_learned_as_the_template_prints_them(tmp_path: Path, chat: Any) -> None:
    tokenizer = chat(TOOLS_TEMPLATE)
    call, answer = examples_of({"messages": CALLING, "tools": [TOOL]}, tmp_path)
    assert learned(call, tokenizer).strip() == '<call>weather {"town": 3}</call><|im_end|>'
    assert learned(answer, tokenizer).strip() == "It is clear.<|im_end|>"
    text = render(answer, tokenizer)
    messages = [{**message, "content": message["content"] or ""} for message in CALLING]
    assert text.prompt + text.completion + text.closing == tokenizer.apply_chat_template(
        messages, tools=[TOOL], tokenize=False
    )
    assert text.prompt.startswith('<|im_start|>system\n{"type": "function"')


def test_the_ways_to_write_tools_and_calls_come_to_the_same(tmp_path: Path) -> None:
    wanted = examples_of({"messages": CALLING, "tools": [TOOL]}, tmp_path)
    as_text = {"type": "function", "function": {"name": "weather", "arguments": '{"town": 3}'}}
    bare = {"name": "weather", "arguments": {"town": 3}}
    for call in (as_text, bare):
        messages = [CALLING[0], assistant("", tool_calls=[call]), *CALLING[2:]]
        for tools in ([TOOL], json.dumps([TOOL]), [TOOL["function"]]):
            assert examples_of({"messages": messages, "tools": tools}, tmp_path) == wanted


def test_what_parquet_fills_up_is_no_part_of_a_call(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "time", "arguments": {"zone": "CET"}}}
    rows = [{"messages": CALLING, "tools": [TOOL]}, {"messages": [user("a"), assistant("", tool_calls=[other])]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    (task,) = load_tasks(["mine.parquet"], tmp_path)
    calls = sorted(task.training_examples() + task.validation_examples(), key=lambda example: example.place)
    assert calls[0].completion[0]["tool_calls"] == [CALL]
    assert calls[2].completion[0]["tool_calls"] == [other]
    rows = [without_filling(row) for row in read_rows(tmp_path / "mine.parquet").rows]  # as they are predicted
    assert [task.tools(row, "row") for row in rows] == [[TOOL], None]
    assert task.question({"messages": rows[0]["messages"][:3]}, "row") == calls[1].prompt


def test_the_tools_of_the_cases(shared: Path, chat: Any, tokenizers: dict[str, Any]) -> None:
    (task,) = load_tasks(["tools.jsonl"], shared / "cases")
    examples = task.training_examples()
    told = {learned(example, chat(TOOLS_TEMPLATE)).strip() for example in examples}
    assert "It is clear.<|im_end|>" in told
    assert any(text.startswith('<call>weather {"town": ') for text in told)
    for template in ("chatml.jinja", "eot.jinja"):
        with pytest.raises(UserError, match=r"tools\.jsonl, line \d+: .* does not print .*'tools'"):
            encode_all(examples, chat((shared / "cases" / "templates" / template).read_text()), 4096)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (TOOLS_TEMPLATE.replace("{% if tools %}", "{% if false %}"), "does not print 'tools'"),
        (TOOLS_TEMPLATE.replace("m.tool_calls or []", "[]"), "does not print 'tool_calls' (message 2)"),
        (TOOLS_TEMPLATE.replace(" {{ c.function.arguments | tojson }}", ""), "'tool_calls' (message 2)"),
        (
            TOOLS_TEMPLATE.replace("{{ m.content }}", "{% if m.role != 'tool' %}{{ m.content }}{% endif %}"),
            "does not print 'content' (message 3, of the role 'tool')",
        ),
        (
            TOOLS_TEMPLATE.replace("{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}"),
            "does not print 'content' (message 2, of the role 'assistant')",
        ),
        (
            "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + TOOLS_TEMPLATE,
            "no tools (a conversation with",
        ),
    ],
)
def test_a_template_that_leaves_calls_out_is_refused(template: str, part: str, tmp_path: Path, chat: Any) -> None:
    messages = [CALLING[0], assistant("Let me look.", tool_calls=[CALL]), *CALLING[2:]]
    examples = examples_of({"messages": messages, "tools": [TOOL]}, tmp_path)
    with pytest.raises(UserError) as caught:
        encode_all(examples[1:], chat(template), 4096)
    assert part in str(caught.value)
    assert "mine.jsonl, line 1: " in str(caught.value)


def test_thoughts_are_learned_where_the_template_prints_them(tmp_path: Path, chat: Any) -> None:
    turns = [
        user("a"),
        assistant("four", reasoning_content="Hm."),
        user("c"),
        assistant("five", reasoning_content="Oh."),
    ]
    first, second = examples_of({"messages": turns}, tmp_path)
    assert learned(first, chat(THINKS)).strip() == "<think>Hm.</think>\nfour<|im_end|>"
    assert learned(second, chat(THINKS)).strip() == "<think>Oh.</think>\nfive<|im_end|>"
    assert "Hm." not in render(second, chat(THINKS)).prompt  # as in use: thoughts before earlier answers are gone
    (other,) = examples_of({"messages": [user("a"), assistant("four", thinking="Hm.")]}, tmp_path)
    assert learned(other, chat(THINKS)).strip() == "<think>Hm.</think>\nfour<|im_end|>"
    with pytest.raises(UserError, match=r"line 1: .* does not print 'thinking' \(message 2\)"):
        encode(other, chat(TOOLS_TEMPLATE), 4096)


def test_parts_of_text_are_lines_and_other_parts_are_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (example,) = examples_of({"messages": [user(parts), assistant("c")]}, tmp_path)
    assert example.prompt[0]["content"] == "a\nb"
    with pytest.raises(UserError, match="message 1 of 'messages': part 2 of 'content' is of the type 'image_url'"):
        examples_of({"messages": [user([parts[0], {"type": "image_url"}]), assistant("c")]}, tmp_path)


ANSWERED = [user("a"), assistant("b")]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"messages": [user("a"), assistant("b", weight=0.5)]}, "message 2 of 'messages': 'weight' must be 0 or 1"),
        ({"messages": [user("a"), assistant("b", weight=True)]}, "'weight' must be 0 or 1, not True"),
        ({"messages": [user("a"), assistant("b", train="no")]}, "'train' must be true or false, not 'no'"),
        ({"messages": [user("a"), assistant("b", train=False, weight=1)]}, "they contradict each other"),
        ({"messages": [user("a", weight=1), assistant("b")]}, "message 1 of 'messages': 'weight' asks to learn a turn"),
        ({"messages": [user("a", train=True), assistant("b")]}, "'train' asks to learn a turn of the role 'user'"),
        ({"messages": [user("a"), assistant("b", weight=0)]}, "line 1: every turn of the assistant has the weight 0"),
        ({"messages": [user("a"), assistant("b", loss=False)]}, "'loss' is not supported: write 'weight'"),
        ({"messages": [user("a"), assistant("b", loss=0)]}, "'loss' is not supported: write 'weight'"),
        ({"messages": [user("a"), assistant("", function_call={"name": "f"})]}, "'function_call' is not supported"),
        (
            {"messages": [user("a"), assistant("", tool_calls=[{"id": "1"}])]},
            "call 1 of 'tool_calls' names no function",
        ),
        ({"messages": [user("a"), assistant("", tool_calls="[")]}, "'tool_calls' is text that is not JSON"),
        (
            {"messages": [user("a"), assistant("", tool_calls=[{"name": "f", "arguments": "x"}])]},
            "call 1 of 'tool_calls': 'arguments' is text that is not JSON: 'x'",
        ),
        ({"messages": [user("a", tool_calls=[CALL]), assistant("b")]}, "'tool_calls' belongs to the assistant"),
        ({"messages": [user("a"), assistant("b", thinking=["x"])]}, "'thinking' must be text"),
        ({"messages": ANSWERED, "system": "Be brief."}, "'system' is not supported: write it as a message"),
        ({"messages": ANSWERED, "tools": "["}, "'tools' is text that is not JSON"),
        ({"messages": ANSWERED, "images": ["x.png"]}, "'images' is not supported"),
        ({"messages": ANSWERED, "chosen": ANSWERED}, "'chosen' is not supported: pairs of answers are for DPO"),
        ({"prompt": ANSWERED[:1], "completion": ANSWERED[1:], "label": False}, "'label' rates the answers"),
        ({"messages": ANSWERED, "system_prompt": "Be brief."}, "'system_prompt' is not supported: write it as"),
        ({"messages": ANSWERED, "weight": 0}, "'weight' is 0, and a row has none here"),
    ],
)
def test_what_is_not_followed_is_refused(row: dict[str, Any], part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        examples_of(row, tmp_path)
    assert f"{tmp_path / 'mine.jsonl'}, line 1" in str(caught.value)
    assert part in str(caught.value)


def test_keys_that_say_nothing_are_fine(tmp_path: Path) -> None:
    row = {"id": 7, "messages": [user("a", id="x"), assistant("b", id="y", tool_calls=[], refusal=None)], "tools": []}
    (example,) = examples_of(row, tmp_path)
    assert example.tools is None
    assert "tool_calls" not in example.completion[0]
