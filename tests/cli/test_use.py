"""`loraweave predict` and `loraweave chat`."""

import io
import json
import sys
from pathlib import Path

import pytest
from tiny_runs import SMALL, random_run

from loraweave.evaluation.loaded import Loaded


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory) -> Path:
    return random_run(project, {"name": "moelora", **SMALL}, tmp_path_factory.mktemp("run") / "run")


def predict(command, run: Path, project: Path, output: Path):
    return command("predict", run, "--task", "parity", "--file", project / "parity_test.jsonl", "--output", output)


def test_predictions_go_on_where_they_were_interrupted(command, project, run, tmp_path, monkeypatch):
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
    assert 0 < sum(asked) < 16
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["row"] for line in again] == [line["row"] for line in lines]
    assert [line["prediction"] for line in again] == [line["prediction"] for line in lines]


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


def test_a_conversation_ends_with_its_input(command, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command("chat", run)[0] == 0
    code, _, err = command("chat", run, "--task", "nots")
    assert (code, "did you mean 'notes'" in err) == (2, True)
