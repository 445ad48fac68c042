"""Answers that training teaches and evaluation takes for wrong are told before the first step."""

from pathlib import Path

import pytest
from tiny_tasks import write_jsonl

from loraweave.data import taught
from loraweave.data.taught import taught_in_vain
from loraweave.tasks import load_tasks
from loraweave.tasks.prompts import example_from

TASK = """
task: ask
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} Answer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["@"]}
metric_list: [{metric: exact_match}]
"""
STRIPS = "filter_list: [{name: clean, filter: [{function: remove_whitespace}, {function: take_first}]}]\n"
NUMBERS = 'filter_list: [{name: n, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}]\n'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "' no': take the space away with a filter (remove_whitespace, then take_first) or with `target_del"),
        (NUMBERS, "' no': see its filter_list and doc_to_target"),
        (STRIPS, ""),
        ('target_delimiter: ""\n', ""),
        ("process_results: !function own.score\n", ""),
    ],
)
def test_answers_that_are_taught_in_vain(more: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {'exact_match': 0}\n")
    (tmp_path / "ask.yaml").write_text(TASK + more)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": f"{i}?", "answer": "no"} for i in range(4)])
    (task,) = load_tasks(["ask.yaml"], tmp_path, trust_code=True)
    found = taught_in_vain(task)
    assert said in found
    assert bool(found) == bool(said)


def test_no_more_test_documents_are_made_into_examples_than_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ask.yaml").write_text(TASK)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": f"{i}?", "answer": "no"} for i in range(50)])
    (task,) = load_tasks(["ask.yaml"], tmp_path)
    made = []
    monkeypatch.setattr(taught, "example_from", lambda *given: made.append(given) or example_from(*given))
    assert taught_in_vain(task)
    assert len(made) == taught.LOOKED_AT


def test_chats_have_no_such_space(tmp_path: Path) -> None:
    (tmp_path / "ask.yaml").write_text(TASK)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "a", "answer": "no"}, {"question": "b", "answer": "no"}])
    (task,) = load_tasks(["ask.yaml"], tmp_path, chat_template=True)
    assert taught_in_vain(task) == ""
