"""`loraweave predict` and `loraweave chat`."""

import datetime
import io
import json
import math
import os
import shutil
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tiny_project import write_base
from tiny_runs import SMALL, random_run, whole_run

from loraweave.cli import output
from loraweave.evaluation import predictions
from loraweave.evaluation.loaded import Loaded, load
from loraweave.files import write_json
from loraweave.locks import locked_file


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory) -> Path:
    return random_run(project, {"name": "moelora", **SMALL}, tmp_path_factory.mktemp("run") / "run")


def predict(command, run: Path, project: Path, output: Path):
    return command("predict", run, "--task", "parity", "--file", project / "parity_test.jsonl", "--output", output)


def test_predictions_go_on_where_they_were_interrupted(command, project, run, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "AT_ONCE", 4)
    output = tmp_path / "new" / "out.jsonl"
    code, out, _ = predict(command, run, project, output)
    assert code == 0
    assert f"16 predictions  {output}" in out
    whole = output.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["row"]["number"] for line in lines] == list(range(44, 60))
    assert {line["prediction"] for line in lines} <= {"even", "odd"}

    asked: list[int] = []
    original = Loaded.predict

    def counted(self, task, rows, first=1):
        asked.append(len(rows))
        return original(self, task, rows, first)

    monkeypatch.setattr(Loaded, "predict", counted)
    output.write_text(whole[: whole.index("\n", len(whole) // 2) + 20])  # killed while a line was written
    code, out, _ = predict(command, run, project, output)
    assert code == 0
    assert set(asked) == {4}
    assert sum(asked) < 16
    assert output.read_text() == whole, "to the last digit"


def test_predictions_of_another_model_or_task_are_left_alone(command, project, run, tmp_path):
    output = tmp_path / "out.jsonl"
    assert predict(command, run, project, output)[0] == 0
    whole = output.read_text()
    output.write_text(whole[: whole.index("\n") + 1])

    def refused(folder: Path, *words: str, task: str = "parity", more: tuple = ()) -> None:
        before = output.read_text()
        options = ("--task", task, "--file", project / "parity_test.jsonl", "--output", output)
        code, _, err = command("predict", folder, *options, *more)
        *notes, _ = err.strip().splitlines()
        assert (code, len(notes)) == (2, "--base" in more), err  # that its weights are others is a note
        for word in (*words, "choose another output"):
            assert word in err
        assert output.read_text() == before

    refused(random_run(project, {"name": "moelora", "r": 2}, tmp_path / "r2"), f"by another model, {run} as it was")
    refused(run, "for the task 'parity'", task="double")
    write_base(tmp_path / "other", seed=1)
    refused(run, "by another model", more=("--base", tmp_path / "other"))
    shutil.copytree(run, tmp_path / "moved")  # the same, elsewhere
    assert predict(command, tmp_path / "moved", project, output)[0] == 0
    assert output.read_text() == whole
    assert all(set(json.loads(line)) == {"row", "prediction", "scores"} for line in whole.splitlines())
    (tmp_path / "out.jsonl.about.json").unlink()
    refused(run, "no out.jsonl.about.json says what made these predictions")
    output.write_text('[{"number": 1}]')  # somebody's, without an end of its line
    refused(run, "no out.jsonl.about.json says what made these predictions")


def test_rows_that_json_has_no_words_for_are_gone_on_with(command, project, run, tmp_path):
    days = [datetime.date(2024, 1, 1 + n) for n in range(6)]
    rows = {"number": list(range(6)), "day": days, "share": [math.nan] * 6, "raw": [b"x"] * 6}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "rows.parquet")
    output = tmp_path / "out.jsonl"
    asked = ("predict", run, "--task", "parity", "--file", tmp_path / "rows.parquet", "--output", output)
    assert command(*asked)[0] == 0
    whole = output.read_text()
    assert json.loads(whole.splitlines()[2])["row"] == {"number": 2, "day": "2024-01-03", "share": None, "raw": "b'x'"}
    output.write_text(whole[: len(whole) // 2])
    code, out, err = command(*asked)
    assert (code, "of them before" in out) == (0, True), err
    assert output.read_text() == whole


def test_predictions_by_other_templates_are_left_alone(command, project, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(project, own)
    run = random_run(own, {"name": "moelora", **SMALL}, tmp_path / "run")
    output = tmp_path / "out.jsonl"
    assert predict(command, run, own, output)[0] == 0
    yaml = own / "parity.yaml"
    yaml.write_text(yaml.read_text().replace('"{{number}} is"', '"Is {{number}}"'))
    code, _, err = predict(command, run, own, output)
    assert (code, "as it was before its templates were changed" in err) == (2, True), err


def test_a_second_command_does_not_write_the_same_predictions(command, project, run, tmp_path):
    output = tmp_path / "out.jsonl"
    with locked_file(output):
        code, _, err = predict(command, run, project, output)
        assert (code, f"{output}: process {os.getpid()} on" in err, "is writing this file" in err) == (2, True, True)
    assert predict(command, run, project, output)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.about.json"]


def test_a_tasks_name_is_no_markup(command, project, tmp_path, monkeypatch):
    own = tmp_path / "own"
    shutil.copytree(project, own)
    odd = "a[red]b[bold]x"
    tasks = [{"task": "parity.yaml", "name": odd}]
    run = random_run(own, {"name": "lora", **SMALL}, tmp_path / "run", tasks=tasks)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output.errors, "_force_terminal", True)
    monkeypatch.setattr(output.errors, "is_interactive", True)
    file, out = own / "parity_test.jsonl", tmp_path / "out.jsonl"
    code, _, err = command("predict", run, "--task", odd, "--file", file, "--output", out)
    assert (code, odd in err) == (0, True), err
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\n"))
    code, printed, _ = command("chat", run, "--task", odd)
    assert (code, f"{odd}>" in printed) == (0, True)


def test_predictions_of_other_rows_are_left_alone(command, project, run, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text('{"row": {"number": 1}, "prediction": "odd"}\n')
    code, _, err = predict(command, run, project, output)
    assert (code, "other rows" in err) == (2, True)
    assert output.read_text().count("\n") == 1


def test_a_conversation(command, run, monkeypatch):
    said = ["Note 1:", "/task duoble", "/task double", "Double abx:", "/base", "Double abx:", "/what", "/quit"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(said) + "\n"))
    code, out, err = command("chat", run, "--task", "notes", "--max-new-tokens", 6)
    assert code == 0
    assert "tasks: parity, double, notes" in out
    assert "did you mean 'double'" in err
    assert "double>" in out
    assert "base  " in out


def test_what_was_trained_on_plain_prompts_is_asked_so_and_that_is_said(command, project, tmp_path, monkeypatch):
    write_base(tmp_path / "base")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}assistant: "
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    run = random_run(project, {"name": "moelora", **SMALL}, tmp_path / "run", base=tmp_path / "base")
    write_json(run / "splits.json", {"notes": {"chat_template": True}, "old": {}})
    asked = []
    monkeypatch.setattr(
        Loaded, "stream", lambda self, task, prompt, **how: asked.append((task, prompt)) or iter(["so"])
    )

    def say(*lines: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
        return command("chat", run, "--task", "notes")[1]

    said = "trained on plain prompts: each line is a prompt by itself, \\n in it a new line"
    assert said not in say("Hello")
    assert said in say("/task parity", "3\\nis", "/task notes", "Hello")
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "so"}]
    assert asked == [("notes", chat[:1]), ("parity", "3\nis"), ("notes", chat[:1])]
    (run / "run.yaml").write_text((run / "run.yaml").read_text().replace("chat_template: false", "chat_template: true"))
    assert said not in say("/task parity", "3")


def test_a_conversation_ends_with_its_input(command, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command("chat", run)[0] == 0
    code, _, err = command("chat", run, "--task", "nots")
    assert (code, "did you mean 'notes'" in err) == (2, True)


def test_a_conversation_goes_on_after_what_cannot_be_had(command, project, tmp_path, monkeypatch):
    model = whole_run(project, tmp_path / "run") / "model"  # by itself, so that nothing says what its base was
    monkeypatch.setattr(sys, "stdin", io.StringIO("/base\nNote 1:\n/base\nNote 1:\n"))
    code, out, err = command("chat", model, "--max-new-tokens", 6)
    said = "".join(load(model).stream(None, "Note 1:", max_new_tokens=6))
    assert (code, out.count(said)) == (0, 1)
    assert "nothing here says which base it was made from" in err


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (("serve", ".", "--port", 0), "lower --batch, --context or --cache-gb"),
        (("chat", "."), "a base that takes less"),
        (("experts", "add", "library", "."), "a base that takes less"),
    ],
)
def test_where_memory_is_full_the_advice_is_not_a_trainings(words, way, command, tmp_path, monkeypatch):
    def full(*_, **how):
        raise MemoryError

    library = "loraweave.experts.library.ExpertLibrary.of_lora"
    for place in ("loraweave.evaluation.loaded.load", "loraweave.serving.server.load", library):
        monkeypatch.setattr(place, full)
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*words)
    assert (code, "memory is full" in err, way in err, "train." in err) == (70, True, True, False)
