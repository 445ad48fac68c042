"""`loraweave eval` on another machine, where data and base lie elsewhere, and of an adapter without its run."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_project import TASKS, write_base, write_project
from tiny_runs import SMALL, random_run, whole_run

from loraweave import UserError, evaluate, load_run
from loraweave.files import read_json, write_json
from loraweave.runs.config import RunConfig
from loraweave.runs.origin import describe_data


def scores_of(folder: Path) -> dict[str, float]:
    made = read_json(folder / "results.json")["evaluations"][-1]
    return {name: score["score"] for name, score in made["scores"].items()}


def with_data(run: Path) -> Path:
    """The run with a record of its data, as training leaves it."""
    write_json(run / "data.json", describe_data(RunConfig.load(run / "run.yaml").load_tasks()))
    return run


@pytest.fixture
def moved(tmp_path: Path, command) -> tuple[Path, Path, dict[str, float]]:
    """A run and its project, brought to where their paths are other ones; and the scores that the run had."""
    project = write_project(tmp_path / "here" / "project")
    absolute = [TASKS[0], str(project / TASKS[1]), {**TASKS[2], "test": str(project / TASKS[2]["test"])}]
    run = with_data(random_run(project, {"name": "moelora", **SMALL}, tmp_path / "here" / "run", absolute))
    assert command("eval", run)[0] == 0
    before = scores_of(run)
    (run / "results.json").unlink()
    (tmp_path / "there").mkdir()
    shutil.move(run, tmp_path / "there" / "run")
    shutil.move(project, tmp_path / "there" / "data")
    return tmp_path / "there" / "run", tmp_path / "there" / "data", before


def test_a_run_scores_the_same_with_its_data_and_base_elsewhere(moved, command):
    run, data, before = moved
    code, _, err = command("eval", run)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    code, out, err = command("eval", run, "--data-dir", data)
    assert (code, err) == (0, ""), err
    assert scores_of(run) == before
    assert "difference" in out  # the base, which lies beside the data, was found too
    shutil.move(data / "base", data.parent / "base")
    code, _, err = command("eval", run, "--data-dir", data)
    assert (code, "base" in err) == (2, True)
    code, out, _ = command("eval", run, "--data-dir", data, "--base", data.parent / "base", "--no-base")
    assert (code, "difference" in out) == (0, False)
    assert scores_of(run) == before


def test_data_that_are_not_the_runs_own_are_refused(moved, command):
    run, data, _ = moved
    lines = (data / "notes.jsonl").read_text().splitlines()
    (data / "notes.jsonl").write_text("\n".join(["" + lines[0].replace("remember", "forget"), *lines[1:]]) + "\n")
    code, _, err = command("eval", run, "--data-dir", data)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"{data}: the examples of notes are not those that {run} was trained on" in err
    (run / "data.json").unlink()
    assert "no data.json" in command("eval", run, "--data-dir", data)[2]
    assert not (run / "results.json").exists()
    code, _, err = command("eval", run, "--data-dir", data / "nowhere")
    assert (code, "there is no folder" in err) == (2, True)


def test_where_the_data_are_gone_the_way_is_named(moved, command, tmp_path):
    run, data, _ = moved
    code, _, err = command("eval", run, "--base", data / "base")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "parity.yaml" in err
    assert "say with --data-dir where it is" in err


def test_another_base_is_refused(moved, command, tmp_path):
    run, data, _ = moved
    write_base(tmp_path / "other", seed=1)
    code, _, err = command("eval", run, "--data-dir", data, "--base", tmp_path / "other")
    assert (code, "is not the one the adapter was trained on" in err) == (2, True)


@pytest.fixture(scope="module")
def project_and_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    project = write_project(tmp_path_factory.mktemp("project"))
    return project, random_run(project, {"name": "moelora", **SMALL}, tmp_path_factory.mktemp("run") / "run")


def test_an_adapter_by_itself_scores_as_in_its_run(project_and_run, command, tmp_path, monkeypatch):
    project, run = project_and_run
    assert command("eval", run, "--tasks", "parity,double")[0] == 0
    alone = tmp_path / "adapter"
    shutil.copytree(run / "adapter", alone)
    monkeypatch.chdir(project)
    code, _, err = command("eval", alone, "--tasks", "parity.yaml,double.yaml")
    assert (code, err) == (0, ""), err
    assert scores_of(alone) == scores_of(run)
    of_run, of_alone = (read_json(each / "results.json")["evaluations"][-1]["base"] for each in (run, alone))
    assert {name: score["score"] for name, score in of_alone.items()} == {
        name: score["score"] for name, score in of_run.items()
    }
    assert "<h1>moelora on 2 tasks</h1>" in (alone / "evaluation.html").read_text()
    samples = [json.loads(line) for line in (alone / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 24
    found = evaluate(alone, tasks=[{"task": "notes.jsonl", "test": "notes_test.jsonl"}], base=False)
    assert list(found.scores) == ["notes"]


def test_a_task_with_nothing_to_be_scored_on_is_left_out_and_said(command, tmp_path):
    project = write_project(tmp_path / "project")
    (project / "few.jsonl").write_text('{"prompt": "Note:", "completion": " x"}\n')
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run", ["parity.yaml", "few.jsonl"])
    code, out, err = command("eval", run, "--no-base")
    assert (code, "few: not scored, too few rows to hold some out: name a file as 'test'" in out) == (0, True), err
    assert list(scores_of(run)) == ["parity"]
    code, _, err = command("eval", run, "--no-base", "--tasks", "few")
    assert (code, "has too few rows to hold some out for the score" in err) == (2, True)


def test_what_is_no_run_wants_its_tasks_named(project_and_run, command, tmp_path, monkeypatch):
    project, run = project_and_run
    monkeypatch.chdir(project)

    def refused(*typed: object) -> str:
        code, _, err = command("eval", *typed)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        return err

    assert "nothing says what its tasks are: name them with tasks=[...], or --tasks" in refused(run / "adapter")
    assert "unknown task 'other'" in refused(run / "adapter", "--tasks", write_other(project))
    assert "did you mean 'parity'" in refused(run, "--tasks", "parit")
    assert "whose run file says" in refused(run, "--chat-template")
    assert "holds no run, no adapter and no model" in refused(tmp_path, "--tasks", "parity.yaml")
    loaded = load_run(run)
    with pytest.raises(UserError, match="this run is loaded already"):
        evaluate(loaded, data_dir=project)


def write_other(project: Path) -> str:
    (project / "other.yaml").write_text((project / "parity.yaml").read_text().replace("task: parity", "task: other"))
    return "other.yaml"


def test_data_of_task_files_are_looked_for_where_it_is_said(project_and_run, command, tmp_path, monkeypatch):
    project, run = project_and_run
    (tmp_path / "tasks").mkdir()
    shutil.copy(project / "parity.yaml", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path / "tasks")
    assert command("eval", run / "adapter", "--tasks", "parity.yaml")[0] == 2
    assert command("eval", run / "adapter", "--tasks", "parity.yaml", "--data-dir", project, "--no-base")[0] == 0


def test_a_model_by_itself_is_scored_beside_a_base_that_is_named(project_and_run, command, tmp_path, monkeypatch):
    project, _ = project_and_run
    model = whole_run(project, tmp_path / "run") / "model"
    monkeypatch.chdir(project)
    code, out, _ = command("eval", model, "--tasks", "parity.yaml")
    assert (code, "the untouched base was not scored" in out) == (0, True)
    code, out, _ = command("eval", model, "--tasks", "parity.yaml", "--base", project / "base")
    assert (code, "difference" in out.splitlines()[0]) == (0, True)
