"""Prompts that are too long: refused where most are, and counted by task in the dry run and in the run."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def run_file(project: Path, tmp_path: Path) -> Path:
    """A run whose `notes` are mostly longer than its rows."""
    rows = [{"prompt": f"Note {n}: {'very ' * (8 if n < 18 else 1)}long,", "completion": " yes"} for n in range(20)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.yaml"
    train = "{max_steps: 2, max_length: 32, report_to: none}"
    tasks = f"[{json.dumps(str(project / 'parity.yaml'))}, long.jsonl]"
    path.write_text(f"model: {json.dumps(str(project / 'base'))}\nmethod: lora\ntasks: {tasks}\ntrain: {train}\n")
    return path


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_task_that_loses_most_beginnings_is_refused(dry: list[str], run_file: Path, command) -> None:
    code, _, err = command("train", run_file, "--output", run_file.parent / "out", *dry)
    assert code != 0
    assert "with 32 tokens at most, most prompts lose their beginning" in err
    assert "cut_prompts: true" in err
    assert "'long'" in err
    assert "'parity'" not in err
    assert not (run_file.parent / "out").exists()


def test_asked_for_it_is_counted(run_file: Path, command) -> None:
    out = run_file.parent / "out"
    asked = ("train", run_file, "--output", out, "--set", "cut_prompts=true")
    code, shown, err = command(*asked, "--dry-run")
    assert code == 0
    assert "left out" in shown
    assert "long: " in err
    assert "prompts lose their beginning" in err
    code, shown, err = command(*asked)
    assert code == 0
    assert "prompts lose their beginning" in shown + err
    mixture = {row["task"]: row for row in json.loads((out / "mixture.json").read_text())}
    counted = mixture["long"]["cut"]
    assert counted > mixture["long"]["available"] / 2
    assert mixture["parity"]["cut"] == mixture["parity"]["dropped"] == 0
    assert json.loads((out / "summary.json").read_text())["mixture"] == [*mixture.values()]
    assert f"long: {counted} of " in shown + err
