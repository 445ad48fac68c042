"""A project that is moved: its runs name what is theirs by the way from their own folder, and work where they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import write_base

from loraweave.files import read_json
from loraweave.runs.config import RunConfig


def write_travelling(folder: Path) -> Path:
    """A project with a base, a task file, data below it and one text that nothing is trained for; and a run of it."""
    write_base(folder / "base")
    (folder / "data").mkdir()
    notes = [{"prompt": f"Note {n}:", "completion": f" remember {n % 3}"} for n in range(40)]
    kinds = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(40)]
    for name, rows in (("notes", notes), ("kinds", kinds)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "story.txt").write_text("Once upon a time. " * 20)
    tasks = ["data/notes.jsonl", {"task": str(folder / "data" / "kinds.jsonl"), "name": "kinds"}]
    train = {"max_steps": 2, "max_length": 64, "report_to": "none", "save_strategy": "no"}
    run_file = {"model": "base", "tasks": tasks, "train": train, "eval": {"forgetting": ["story.txt"]}}
    (folder / "run.yaml").write_text(yaml.safe_dump({**run_file, "output": "runs/first"}))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from loraweave.cli.app import run

    project = write_travelling(tmp_path_factory.mktemp("travelling") / "project")
    assert run(["train", str(project / "run.yaml")]) == 0
    assert run(["eval", str(project / "runs" / "first")]) == 0
    return project


def scores(run: Path) -> dict[str, Any]:
    made = read_json(run / "results.json")["evaluations"][-1]
    lost = made["forgetting"]["scores"]
    return {name: score["score"] for name, score in (made["scores"] | lost).items()}


def test_a_run_names_what_is_its_own_by_the_way_from_its_folder(whole: Path) -> None:
    run = whole / "runs" / "first"
    for name in ("run.yaml", "splits.json", "data.json", "mixture.json", "summary.json", "metrics.jsonl"):
        assert str(whole) not in (run / name).read_text(), name
    written = yaml.safe_load((run / "run.yaml").read_text())
    assert (written["base_dir"], written["model"], written["output"]) == ("../..", "./base", "runs/first")
    assert written["tasks"][1]["task"] == "data/kinds.jsonl"
    before, after = RunConfig.load(whole / "run.yaml"), RunConfig.load(run / "run.yaml")
    assert (before.base, before.output, before.base_dir) == (after.base, after.output, after.base_dir)


def test_a_whole_project_moves_and_its_runs_with_it(whole: Path, tmp_path: Path, command) -> None:
    moved = Path(shutil.copytree(whole, tmp_path / "elsewhere" / "deeper" / "project"))
    hidden = whole.with_name("gone")
    whole.rename(hidden)
    try:
        run = moved / "runs" / "first"
        before = scores(run)
        (run / "results.json").unlink()
        code, _, err = command("eval", run)
        assert (code, err) == (0, ""), err
        assert scores(run) == before
        file, out = moved / "data" / "kinds.jsonl", tmp_path / "out.jsonl"
        assert command("predict", run, "--task", "kinds", "--file", file, "--output", out)[0] == 0
        assert len(out.read_text().splitlines()) == 40
        code, out, err = command("export", run, "--to", "lora", "--output", tmp_path / "lora")
        assert (code, "random tokens" in out + err) == (0, False), err
        code, _, err = command("train", moved / "run.yaml", "--resume")
        assert (code, "is finished" in err) == (2, True), err  # and is not another run
    finally:
        hidden.rename(whole)


def test_a_run_by_itself_works_beside_data_that_lie_elsewhere(whole: Path, tmp_path: Path, command) -> None:
    run = Path(shutil.copytree(whole / "runs" / "first", tmp_path / "runs" / "deep" / "first"))
    data = tmp_path / "data of mine"
    shutil.copytree(whole, data, ignore=shutil.ignore_patterns("runs", "run.yaml"))
    before = scores(run)
    (run / "results.json").unlink()
    hidden = whole.with_name("gone")
    whole.rename(hidden)
    try:
        for words in (("eval", run, "--base", data / "base"), ("predict", run, "--base", data / "base")):
            more = () if words[0] == "eval" else ("--task", "kinds", "--file", data / "data" / "kinds.jsonl")
            output = () if words[0] == "eval" else ("--output", tmp_path / "none.jsonl")
            code, _, err = command(*words, *more, *output)
            assert (code, "say with --data-dir where it is" in err) == (2, True), err
            assert len(err.strip().splitlines()) == 1
        code, _, err = command("eval", run, "--data-dir", data)
        assert (code, err) == (0, ""), err
        assert scores(run) == before
        asked = ("--task", "kinds", "--file", data / "data" / "kinds.jsonl", "--output", tmp_path / "out.jsonl")
        assert command("predict", run, *asked, "--data-dir", data)[0] == 0
        code, out, err = command("export", run, "--to", "lora", "--output", tmp_path / "lora", "--data-dir", data)
        assert (code, "random tokens" in out + err) == (0, False), err
        rows = (data / "data" / "kinds.jsonl").read_text()
        (data / "data" / "kinds.jsonl").write_text(rows.replace('"t5"', '"other"'))
        code, _, err = command("predict", run, *asked[:-1], tmp_path / "other.jsonl", "--data-dir", data)
        assert (code, "the examples of kinds are not those that" in err) == (2, True), err
    finally:
        hidden.rename(whole)


def test_a_run_that_is_moved_by_itself_finds_what_is_still_there(whole: Path, tmp_path: Path, command) -> None:
    run = Path(shutil.move(shutil.copytree(whole / "runs" / "first", tmp_path / "one"), tmp_path / "kept"))
    before = scores(run)
    (run / "results.json").unlink()
    code, _, err = command("eval", run)
    assert (code, err) == (0, ""), err
    assert scores(run) == before


def test_other_examples_to_be_scored_are_said(whole: Path, tmp_path: Path, command) -> None:
    moved = Path(shutil.copytree(whole, tmp_path / "project"))
    run, file = moved / "runs" / "first", moved / "data" / "kinds.jsonl"
    first = read_json(run / "results.json")["evaluations"][-1]["data"]
    assert first == {name: each["test"] for name, each in read_json(run / "data.json").items()}
    held_out = read_json(run / "splits.json")["kinds"]["held_out"]["test"]["data/kinds.jsonl"]
    lines = file.read_text().splitlines(keepends=True)
    lines[held_out[0] - 1] = lines[held_out[0] - 1].replace('"text": "t', '"text": "T')
    file.write_text("".join(lines))
    code, out, _ = command("eval", run, "--no-base")
    assert (code, "kinds: not the examples that were held out when this was trained" in out) == (0, True)
    code, _, err = command("eval", run, "--no-base", "--data-dir", moved)
    assert (code, "the examples of kinds are not those that" in err) == (2, True)
