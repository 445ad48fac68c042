"""What a row of each format says: empty and zero columns, lists in templates, conversations in cells."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import write_jsonl

from loraweave.errors import UserError
from loraweave.tasks import Example, load_tasks
from loraweave.tasks.data_task import DataTask

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def loaded(folder: Path, rows: list[dict[str, Any]], **more: Any) -> DataTask:
    write_jsonl(folder / "mine.jsonl", rows)
    return of_file(folder, "mine.jsonl", **more)


def of_file(folder: Path, name: str, **more: Any) -> DataTask:
    (task,) = load_tasks([{"task": name, **more}], folder)
    assert isinstance(task, DataTask)
    return task


def table(folder: Path, rows: list[dict[str, Any]]) -> str:
    with (folder / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return "mine.csv"


@pytest.mark.parametrize("history", [[], "[]", None])
def test_alpaca_whose_histories_are_all_empty_needs_no_chat(history: Any, tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "", "output": "b", "system": "", "history": history}
    task = loaded(tmp_path, [row])
    assert (task.format.name, task.chat_template) == ("Alpaca", False)
    assert loaded(tmp_path, [row, {**row, "system": "s"}]).format.name == "Alpaca with a history"


def test_an_input_of_zero_is_an_input(tmp_path: Path) -> None:
    name = table(tmp_path, [{"instruction": "Even?", "input": number, "output": "x"} for number in (0, "", 7)])
    for chat in (False, True):
        task = of_file(tmp_path, name, chat_template=chat)
        found = [*task.training_examples(), *task.validation_examples(), *task.test_examples()]
        assert sorted(re.sub(r"\D", "", str(each.prompt)) for each in found) == ["", "0", "7"]


@pytest.mark.parametrize("completion", ["{{answers}}", "answers", "{{ answers }}"])
def test_a_list_is_no_answer_in_templates_of_ones_own(completion: str, tmp_path: Path) -> None:
    rows = [{"q": "a", "answers": ["b", "c"]}]
    with pytest.raises(UserError, match=r"line 1: the column 'answers' holds no text but list.*\{\{answers\[0\]\}\}"):
        loaded(tmp_path, rows, prompt="{{q}}\n", completion=completion)
    (example,) = loaded(tmp_path, rows, prompt="{{q}}\n", completion="{{answers[0]}}").training_examples()
    assert example.completion == "b"


def test_messages_as_json_in_cells_of_prompt_and_completion(tmp_path: Path) -> None:
    row = {"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}
    task = of_file(tmp_path, table(tmp_path, [row]))
    assert task.chat_template
    assert [(each.prompt, each.completion) for each in task.training_examples()] == [(CHAT[:1], CHAT[1:])]
    assert task.question({"prompt": row["prompt"]}, "here") == CHAT[:1]
    with pytest.raises(UserError, match="line 2: 'prompt' is text that is not JSON"):  # as pandas writes it
        of_file(tmp_path, table(tmp_path, [{"prompt": str(CHAT[:1]), "completion": str(CHAT[1:])}]))
    texts = [{"prompt": "[1, 2]", "completion": "[3]"}]
    assert of_file(tmp_path, table(tmp_path, texts)).training_examples() == [Example("[1, 2]", "[3]")]
