"""A project that is moved: its runs name what is theirs by the way from their own folder, and work where they are."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import write_base
from tiny_runs import whole_run

from loraweave import ExpertLibrary, ExpertManager, load
from loraweave.errors import UserError
from loraweave.files import read_json
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.loading import load_run
from loraweave.training.run import train


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


@pytest.fixture
def apart(whole: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A run by itself and its base, each brought to where nothing that the run names is; and nothing where it was."""
    run = Path(shutil.copytree(whole / "runs" / "first", tmp_path / "runs" / "first"))
    base = Path(shutil.copytree(whole / "base", tmp_path / "models" / "mine"))
    hidden = whole.with_name("gone")
    whole.rename(hidden)
    yield run, base
    hidden.rename(whole)


def test_a_base_that_is_gone_is_one_line_with_the_option_that_helps(apart, whole, tmp_path, monkeypatch, command):
    run, base = apart
    file, data, chats = tmp_path / "rows.jsonl", whole.with_name("gone"), io.StringIO("Note 3:\n/quit\n")
    file.write_text('{"text": "t1"}\n')
    asked = ("--task", "kinds", "--file", file, "--data-dir", data)
    typed = {
        "eval": ("eval", run, "--data-dir", data),
        "predict": ("predict", run, *asked, "--output", tmp_path / "out.jsonl"),
        "chat": ("chat", run),
        "serve": ("serve", run, "--port", 0),
        "export": ("export", run, "--to", "merged", "--output", tmp_path / "merged"),
        "adapter": ("export", run / "adapter", "--to", "lora", "--output", tmp_path / "lora"),
    }
    (data / "base").rename(data / "not here")
    try:
        for name, words in typed.items():
            code, _, err = command(*words)
            assert (code, len(err.strip().splitlines())) == (2, 1), (name, err)
            assert f"{words[1]}: its base is not here: " in err, name
            assert "/base: no such folder" in err, name
            assert "(say with --base where it is)" in err, name
            code, _, err = command(*words, "--base", tmp_path / "wrong")  # what was typed is not to be typed
            assert (code, "say with --base" in err) == (2, False), (name, err)
        monkeypatch.setattr("sys.stdin", chats)
        for name in ("eval", "chat", "export", "adapter"):
            code, _, err = command(*typed[name], "--base", base)
            assert code == 0, (name, err)
        loaded = load(run, base=str(base), data_dir=data)
        assert loaded.predict("kinds", [{"text": "t1"}])[0]["prediction"] in ("a", "b")
        assert load_run(run, base=str(base), data_dir=data).config.base.name == str(base)
    finally:
        (data / "not here").rename(data / "base")


def test_an_adapter_in_a_project_that_moved_finds_the_base_that_moved_with_it(whole, tmp_path, command):
    moved = Path(shutil.copytree(whole, tmp_path / "elsewhere" / "project"))
    adapter, hidden = moved / "runs" / "first" / "adapter", whole.with_name("gone")
    alone = Path(shutil.copytree(adapter, tmp_path / "alone"))
    whole.rename(hidden)
    try:
        assert Path(load(adapter).model.config.name_or_path) == moved / "base"
        assert command("export", adapter, "--to", "lora", "--output", tmp_path / "lora")[0] == 0
        with pytest.raises(UserError, match=r"alone: its base is not here: .* \(say with --base where it is\)"):
            load(alone)
        assert load(alone, base=moved / "base").tasks == []
    finally:
        hidden.rename(whole)


def test_full_fine_tuning_is_analysed_where_its_base_is_now(tmp_path, command):
    project = tmp_path / "here"
    write_base(project / "base")
    run = whole_run(project, project / "run")
    there = Path(shutil.move(project, tmp_path / "there"))
    assert command("analyze", there / "run", "--output", tmp_path / "moved")[0] == 0
    (there / "base").rename(tmp_path / "base")
    code, _, err = command("analyze", there / "run", "--output", tmp_path / "none")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert "its base is not here" in err
    assert "(say with --base where it is)" in err
    assert command("analyze", there / "run", "--base", tmp_path / "base", "--output", tmp_path / "found")[0] == 0
    found = read_json(tmp_path / "found" / "analysis.json")["runs"][0]
    assert (found["base"], run.exists()) == (str(tmp_path / "base"), False)


def test_a_library_says_which_option_names_its_base(whole, tmp_path, command):
    base = Path(shutil.copytree(whole / "base", tmp_path / "base"))
    exported = tmp_path / "lora"
    assert command("export", whole / "runs" / "first", "--to", "lora", "--base", base, "--output", exported)[0] == 0
    ExpertLibrary.of_lora(tmp_path / "library", exported).add(exported, "one")
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"library: its base is not here: .* \(say with --base where it is\)"):
        ExpertManager(tmp_path / "library")
    assert ExpertManager(tmp_path / "library", str(tmp_path / "moved")).experts == ["one"]


def test_a_run_goes_on_with_its_base_elsewhere_and_with_no_other(whole, tmp_path):
    """What the base is decides, and not where it lies."""
    project = write_travelling(tmp_path / "project")
    base = (project / "base").rename(tmp_path / "first")
    config = RunConfig.load(project / "run.yaml", [f"model={base}", "train.save_strategy=steps", "train.save_steps=1"])
    train(config, project / "run")
    run = RunFolder(project / "run")
    run.summary.unlink()
    shutil.rmtree(run.adapter)
    moved = base.rename(tmp_path / "second")
    config = config.model_copy(update={"model": str(moved)})
    assert train(config, project / "run", resume=True).steps == 2
    run.summary.unlink()
    write_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="is not the base that this was begun with"):
        train(config.model_copy(update={"model": str(tmp_path / "other")}), project / "run", resume=True)
