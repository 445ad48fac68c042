"""The quickstart: its tasks are what they claim to be, and (in the long tests) every method learns all of them."""

import io
import json
import shlex
from pathlib import Path

import pytest

import loraweave
from loraweave.bases import load_base
from loraweave.cli.app import run
from loraweave.runs.config import RunConfig
from loraweave.tasks import load_tasks

FOLDER = Path(loraweave.__file__).parent / "quickstart"


@pytest.fixture(scope="module")
def tasks():
    config = RunConfig.load(FOLDER / "run.yaml")
    return load_tasks(config.tasks, config.base_dir)


def test_there_are_seven_tasks_of_different_kinds(tasks):
    assert [t.name for t in tasks] == ["topic", "date", "commands", "quote", "larger", "record", "backwards"]


def test_no_test_example_is_trained_on(tasks):
    for task in tasks:
        seen = {e.prompt for e in task.training_examples()} | {e.prompt for e in task.validation_examples()}
        test = {task.lm_eval.doc_to_text(doc) for doc in task.lm_eval.test_docs()}
        assert len(test) == 100
        assert not test & seen


def test_the_answers_are_right(tasks):
    by_name = {task.name: task.training_examples() for task in tasks}
    for example in by_name["larger"]:
        numbers = example.prompt.split("larger, ")[1].split("?")[0].split(" or ")
        assert int(example.completion) == max(map(int, numbers))
    for example in by_name["backwards"]:
        words = example.prompt.split("\n")[0].removeprefix("Words: ").split()
        assert example.completion.split() == words[::-1]
    for example in by_name["record"]:
        record = json.loads(example.completion)
        assert all(str(value) in example.prompt for value in record.values())


def test_every_example_fits_the_embedded_base(tasks):
    _, tokenizer = load_base("nano")
    longest = max(len(tokenizer(e.prompt + e.completion).input_ids) for task in tasks for e in task.training_examples())
    assert longest < 100


def test_nano_is_small_and_has_learned_something():
    folder = FOLDER.parent / "bases" / "nano"
    assert (folder / "model.safetensors").stat().st_size < 16e6
    model, tokenizer = load_base("nano")
    loss = {}
    for text in ("He went to the house and sat down by the fire.", "fire the to house by sat the He and went down."):
        ids = tokenizer(text, return_tensors="pt").input_ids
        loss[text] = model(input_ids=ids, labels=ids).loss.item()
    ordered, shuffled = loss.values()
    assert ordered < 4.5 < shuffled


@pytest.mark.long
def test_every_method_learns_every_task(tmp_path: Path, monkeypatch, capsys):
    assert run(["quickstart", "--output", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = {r["method"]: {name: s["score"] for name, s in r["scores"].items()} for r in results["runs"]}
    for method in ("lora", "multilora", "rlora"):
        for task, score in scores[method].items():
            assert score > scores["base"][task] + 40, (method, task)
    assert (tmp_path / "out" / "index.html").is_file()
    closing = [line.strip() for line in capsys.readouterr().out.split("Go on with:")[1].splitlines()]
    commands = [shlex.split(line)[1:] for line in closing if line.startswith("loraweave ")]
    assert [words[0] for words in commands] == ["chat", "export", "init"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Text: shares fell again\\nTopic:\n"))
    for words in commands:
        assert run(words) == 0, words
