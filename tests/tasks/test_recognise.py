"""What data are taken for: by their columns, with every problem at once and without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from loraweave.errors import UserError
from loraweave.tasks.recognise import recognise

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def written(folder: Path, *rows: Any, name: str = "mine.jsonl") -> str:
    (folder / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(folder / name)


@pytest.mark.parametrize(
    ("row", "name", "scored_by", "used"),
    [
        ({"messages": CHAT, "id": 1}, "chat messages", "loss", ["messages"]),
        ({"messages": CHAT, "tools": TOOLS}, "chat messages with tools", "loss", ["messages", "tools"]),
        ({"conversations": SHARED}, "ShareGPT conversations", "loss", ["conversations"]),
        ({"conversations": CHAT}, "chat messages", "loss", ["conversations"]),
        ({"prompt": "a", "completion": "b"}, "prompt and completion", "loss", ["prompt", "completion"]),
        ({"instruction": "a", "input": "b", "output": "c"}, "Alpaca", "loss", ["instruction", "input", "output"]),
        ({"question": "a", "answer": "b"}, "question and answer", "loss", ["question", "answer"]),
        ({"text": "a", "label": "b"}, "text and label", "acc", ["text", "label"]),
        ({"text": "a"}, "plain text", "bits_per_byte", ["text"]),
    ],
)
def test_formats_are_told_by_their_columns(
    row: dict[str, Any], name: str, scored_by: str, used: list[str], tmp_path: Path
) -> None:
    other = {"text": "c", "label": "d"} if "label" in row else row
    found = recognise(written(tmp_path, row, other))
    assert found is not None
    assert (found.format, found.scored_by, found.used, found.rows) == (name, scored_by, used, 2)
    assert (found.name, found.kind, found.problems) == ("mine", "JSON Lines", [])
    assert found.chat == (name.startswith(("chat", "ShareGPT")))


def test_every_problem_is_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    empty = {"messages": [CHAT[0], {"role": "assistant", "content": " "}]}
    found = recognise(written(tmp_path, {"messages": CHAT}, empty, '{"messages": [}', {"messages": []}, "", "[1]"))
    assert found is not None
    assert found.rows == 1
    assert [(problem.number, problem.content) for problem in found.problems] == [
        (2, empty),
        (3, '{"messages": [}'),
        (4, {"messages": []}),
        (6, "[1]"),
    ]
    for problem, part in zip(found.problems, ("is empty", "not JSON", "must be a list", "is wanted"), strict=True):
        assert problem.message.startswith(f"{tmp_path / 'mine.jsonl'}, line {problem.number}")
        assert part in problem.message


def test_labels_that_are_numbers_need_names(tmp_path: Path) -> None:
    path = written(tmp_path, *({"text": "a", "label": i % 3} for i in range(7)))
    found = recognise(path)
    assert found is not None
    assert (found.format, found.labels) == ("text and label", {"0": 3, "1": 2, "2": 2})
    (problem,) = found.problems
    assert "holds the numbers 0, 1, 2 without names: add choices: [name of 0, name of 1, name of 2]" in problem.message
    named = recognise({"task": path, "choices": ["x", "y", "z"]})
    assert named is not None
    assert (named.labels, named.problems) == ({"x": 3, "y": 2, "z": 2}, [])


def test_columns_of_no_format(tmp_path: Path) -> None:
    found = recognise(written(tmp_path, {"frage": "a", "antwort": "b"}))
    assert found is not None
    assert (found.format, found.columns) == ("", ["frage", "antwort"])
    assert "fields 'antwort', 'frage'; a task file has" in found.problems[0].message
    templates = {"prompt": "{{frage}}\n", "completion": "{{antwort}}"}
    own = recognise({"task": str(tmp_path / "mine.jsonl"), **templates})
    assert own is not None
    assert (own.prompt, own.completion, own.problems) == ("{{frage}}\n", "{{antwort}}", [])


def test_what_is_no_data(tmp_path: Path) -> None:
    assert recognise("boolq", tmp_path) is None
    assert recognise("topic.yaml", tmp_path) is None
    with pytest.raises(UserError, match="unknown key 'promt', did you mean 'prompt'"):
        recognise({"task": "a.csv", "promt": "x"}, tmp_path)
    found = recognise("a.csv", tmp_path)
    assert found is not None
    assert "no such file" in found.problems[0].message


def test_the_files_that_newcomers_have(shared: Path) -> None:
    found = {path.stem: recognise(str(path)) for path in (shared / "cases" / "newcomer").iterdir()}
    formats = {name: one.format for name, one in found.items() if one}
    assert formats == {
        "alpaca": "Alpaca",
        "chats": "chat messages",
        "sharegpt": "ShareGPT conversations",
        "tickets": "text and label",
    }
    problems = {name: [problem.number for problem in one.problems] for name, one in found.items() if one}
    assert problems == {"alpaca": [], "chats": [9, 89], "sharegpt": [], "tickets": [0]}
