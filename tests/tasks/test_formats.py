"""What a row of each format says: empty and zero columns, lists in templates, conversations in cells."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import task_of_file, task_of_rows, write_table

from loraweave.errors import UserError
from loraweave.tasks import Example

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("history", [[], "[]", None])
def test_alpaca_whose_histories_are_all_empty_needs_no_chat(history: Any, tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "", "output": "b", "system": "", "history": history}
    task = task_of_rows(tmp_path, [row])
    assert (task.format.name, task.chat_template) == ("Alpaca", False)
    assert task_of_rows(tmp_path, [row, {**row, "system": "s"}]).format.name == "Alpaca with a history"


def test_an_input_of_zero_is_an_input(tmp_path: Path) -> None:
    name = write_table(tmp_path, [{"instruction": "Even?", "input": number, "output": "x"} for number in (0, "", 7)])
    for chat in (False, True):
        task = task_of_file(tmp_path, name, chat_template=chat)
        found = [*task.training_examples(), *task.validation_examples(), *task.test_examples()]
        assert sorted(re.sub(r"\D", "", str(each.prompt)) for each in found) == ["", "0", "7"]


@pytest.mark.parametrize("completion", ["{{answers}}", "answers", "{{ answers }}"])
def test_a_list_is_no_answer_in_templates_of_ones_own(completion: str, tmp_path: Path) -> None:
    rows = [{"q": "a", "answers": ["b", "c"]}]
    with pytest.raises(UserError, match=r"line 1: the column 'answers' holds no text but list.*\{\{answers\[0\]\}\}"):
        task_of_rows(tmp_path, rows, prompt="{{q}}\n", completion=completion)
    (example,) = task_of_rows(tmp_path, rows, prompt="{{q}}\n", completion="{{answers[0]}}").training_examples()
    assert example.completion == "b"


def test_messages_as_json_in_cells_of_prompt_and_completion(tmp_path: Path) -> None:
    row = {"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}
    task = task_of_file(tmp_path, write_table(tmp_path, [row]))
    assert task.chat_template
    assert [(each.prompt, each.completion) for each in task.training_examples()] == [(CHAT[:1], CHAT[1:])]
    assert task.question({"prompt": row["prompt"]}, "here") == CHAT[:1]
    with pytest.raises(UserError, match="line 2: 'prompt' is text that is not JSON"):  # as pandas writes it
        task_of_file(tmp_path, write_table(tmp_path, [{"prompt": str(CHAT[:1]), "completion": str(CHAT[1:])}]))
    texts = [{"prompt": "[1, 2]", "completion": "[3]"}]
    assert task_of_file(tmp_path, write_table(tmp_path, texts)).training_examples() == [Example("[1, 2]", "[3]")]
