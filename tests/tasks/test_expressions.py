"""Regular expressions of task files: one that is none is told before an evaluation, one that never ends is ended."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from loraweave.errors import UserError
from loraweave.tasks import expressions, load_tasks

WriteTask = Callable[..., Path]
FILTER = """\
filter_list:
  - name: found
    filter:
      - function: regex
        regex_pattern: {}
      - function: take_first
"""
ENDLESS = "(a|aa)+$"
ANSWER = "a" * 60 + "b"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.3)


def task_with(write_task: WriteTask, added: str, metric: str = "exact_match") -> Any:
    path = write_task()
    text = path.read_text()
    kept = text[: text.index("metric_list")].replace("output_type: multiple_choice", "output_type: generate_until")
    lines = [line for line in kept.splitlines() if not line.startswith("doc_to_choice")]
    path.write_text("\n".join([*lines, added, f"metric_list:\n  - metric: {metric}", ""]))
    (task,) = load_tasks([path.name], path.parent)
    return task.lm_eval


def answered(task: Any, *answers: str) -> list[Instance]:
    made = []
    for number, answer in enumerate(answers):
        instance = Instance("generate_until", {}, ("", {}), number, resps=[answer])
        made.append(instance)
    return made


def test_a_filter_finds_what_it_found_and_one_without_end_is_ended(write_task: WriteTask) -> None:
    task = task_with(write_task, FILTER.format(f"'{ENDLESS}'"))
    (ensemble,) = task._filters
    instances = answered(task, "aaa", "b")
    ensemble.apply(instances)
    assert [instance.filtered_resps["found"] for instance in instances] == ["a", "[invalid]"]
    with pytest.raises(UserError, match=r"topic\.yaml: the filter 'found' does not come to an end on an answer"):
        ensemble.apply(answered(task, ANSWER))


def test_in_another_thread_a_filter_works_as_it_does(write_task: WriteTask) -> None:
    task = task_with(write_task, FILTER.format(f"'{ENDLESS}'"))
    instances = answered(task, "aaa")
    thread = threading.Thread(target=task._filters[0].apply, args=(instances,))
    thread.start()
    thread.join()
    assert instances[0].filtered_resps["found"] == "a"


def test_what_is_no_expression_is_told_before_anything_is_evaluated(write_task: WriteTask) -> None:
    with pytest.raises(UserError, match=r"topic\.yaml: the filter 'found' cannot be made: .*unterminated"):
        task_with(write_task, FILTER.format("'('"))


def test_what_a_metric_leaves_out_ends_too(write_task: WriteTask) -> None:
    metric = f"exact_match\n    regexes_to_ignore: ['{ENDLESS}']"
    task = task_with(write_task, "", metric)
    doc = next(iter(task.test_docs()))
    assert task.process_results(doc, ["b"]).keys() == {"exact_match"}
    with pytest.raises(UserError, match="the metric 'exact_match' does not come to an end on an answer"):
        task.process_results(doc, [ANSWER])
