"""A comparison that is killed goes on where it was, whenever that happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from few import few
from peft import PeftModel
from tiny_project import write_base, write_project, write_run_file

from loraweave.comparison import compare
from loraweave.comparison import runner as runs
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.stopping import Stopped

RATES = ["1e-3", "1e-2"]
COMMAND = "from loraweave.cli import main; main()"


def killed_when(reached: Callable[[], bool], *arguments: object) -> None:
    """Start `loraweave` with `arguments` in a process of its own, and kill it as soon as `reached`."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def steps_logged(metrics: Path) -> int:
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def test_killed_in_training(config, tmp_path):
    folder = tmp_path / "out"
    settings = ["train.save_strategy=steps", "train.save_steps=2"]
    arguments = ["compare", config.base_dir / "run.yaml", "--methods", "lora", "--output", folder]
    arguments += [f"--set={setting}" for setting in settings]
    first, second = (folder / "runs" / f"lora-seed0-lr{rate}" for rate in ("0.001", "0.01"))
    killed_when(lambda: steps_logged(second / "metrics.jsonl") >= 4, *arguments, "--learning-rates", ",".join(RATES))
    finished = (first / "summary.json").stat().st_mtime_ns
    assert [*second.glob("checkpoints/checkpoint-*/trainer_state.json")]
    assert not (second / "summary.json").exists()

    resumed = RunConfig.load(config.base_dir / "run.yaml", settings)
    results = compare(resumed, ["lora"], [0], learning_rates=RATES, output=folder, resume=True).results
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]
    assert (first / "summary.json").stat().st_mtime_ns == finished
    # Resumed in its middle, a run has each step once, and comes to the same as one that was never interrupted.
    logged = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [1, 2, 3, 4, 5, 6]
    whole = compare(resumed, ["lora"], [0], learning_rates=RATES, output=tmp_path / "whole").results
    losses = [[trial["validation_loss"] for trial in found["searches"][0]["trials"]] for found in (results, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_ended_between_training_and_evaluation(config, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    evaluate = runs.evaluate

    def ended(model: object, *arguments: object, **named: object) -> dict:
        if isinstance(model, PeftModel):
            raise KeyboardInterrupt
        return evaluate(model, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "evaluate", ended)
        with pytest.raises(KeyboardInterrupt):
            compare(config, ["lora"], [0], learning_rates=RATES, output=folder)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")}
    assert len(finished) == 2
    results = compare(config, ["lora"], [0], learning_rates=RATES, output=folder, resume=True).results
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")} == finished


@pytest.mark.long
def test_killed_again_and_again(config, tmp_path):
    folder = tmp_path / "out"
    arguments = ["compare", config.base_dir / "run.yaml", "--methods", "lora,multilora", "--output", folder]
    arguments += ["--learning-rates", ",".join(RATES), "--seeds", "0,1"]
    whole = compare(config, ["lora", "multilora"], [0, 1], learning_rates=RATES, output=tmp_path / "whole").results
    stages = ["runs/lora-*", "runs/*/run.yaml", "runs/*/base.json", "runs/*/mixture.json", "runs/*/metrics.jsonl"]
    stages += ["runs/*/checkpoints/*", "runs/*/adapter.unfinished", "runs/*/adapter", "runs/*/summary.json"]
    stages += ["runs/*/results.json"]
    for stage in stages:
        before = len([*folder.glob(stage)])
        resume = ["--resume"] if (folder / "results.json").exists() else []
        killed_when(lambda stage=stage, before=before: len([*folder.glob(stage)]) > before, *arguments, *resume)
    results = compare(config, ["lora", "multilora"], [0, 1], learning_rates=RATES, output=folder, resume=True).results
    for one, other in zip(results["runs"][1:], whole["runs"][1:], strict=True):
        assert one["status"] == "finished"
        assert [one[key] for key in ("method", "seed", "learning_rate")] == [
            other[key] for key in ("method", "seed", "learning_rate")
        ]
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-4)


LEFT = [{"run.yaml": "model: ba"}, {}, {"run.yaml": ""}, {"base.json.unfinished": "{"}]


@pytest.mark.parametrize("left", few(LEFT, LEFT[:1]))
def test_a_folder_that_a_kill_left_half_made_is_made_anew(config, tmp_path, left):
    folder = tmp_path / "out"
    run = folder / "runs" / "lora-seed0"
    run.mkdir(parents=True)
    for name, text in left.items():
        (run / name).write_text(text)
    (folder / "results.json").write_text(json.dumps(_begun(config, tmp_path)))
    results = compare(config, ["lora"], [0], output=folder, resume=True).results
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]


def test_results_that_were_being_written_for_the_first_time_are_in_nobodys_way(config, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "results.json.unfinished").write_text("{")
    assert [run["status"] for run in compare(config, ["lora"], [0], output=folder).results["runs"]] == ["finished"] * 2


def test_a_trained_run_of_another_configuration_is_not_taken_for_this_one(config, tmp_path):
    folder = tmp_path / "out"
    compare(config, ["lora"], [0], output=folder)
    found = json.loads((folder / "results.json").read_text())
    found["runs"] = found["runs"][:1]  # as if it had been killed before the record was written
    (folder / "results.json").write_text(json.dumps(found))
    other = {"name": "lora", "r": 2}
    failed = compare(config, [other], [0], output=folder, resume=True).results["runs"][1]
    assert failed["status"] == "failed"
    assert "trained otherwise" in failed["error"]
    compare(config, ["lora"], [0], output=folder, resume=True)
    with pytest.raises(UserError, match=r"lora was trained otherwise in this comparison: method\.r was null"):
        compare(config, [other], [0], output=folder, resume=True)


def _begun(config, tmp_path) -> dict:
    """The results of a comparison that has only its base."""
    begun = compare(config, [{"name": "lora", "target_modules": ["nowhere"]}], [0], output=tmp_path / "begun").results
    begun["runs"] = begun["runs"][:1]
    return begun


@pytest.mark.parametrize("file", ["notes.jsonl", "notes_test.jsonl"])
def test_a_comparison_on_changed_data_or_another_base_is_refused(tmp_path, file):
    config = RunConfig.load(write_run_file(write_project(tmp_path / "project")))
    folder, changed = tmp_path / "out", tmp_path / "project" / file
    compare(config, ["lora"], [0], output=folder)
    before, written = (folder / "results.json").read_bytes(), changed.read_text()
    changed.write_text(written.replace("remember", "forget"))
    with pytest.raises(UserError, match="out: cannot resume, the examples of notes have changed"):
        compare(config, ["lora", "rlora"], [0], output=folder, resume=True)
    changed.write_text(written)
    if file == "notes.jsonl":
        template = tmp_path / "project" / "base" / "chat_template.jinja"
        template.write_text("{{ messages[0].content }}")
        with pytest.raises(UserError, match=r"out: cannot resume, the tokenizer of .* has changed"):
            compare(config, ["lora", "rlora"], [0], output=folder, resume=True)
        shutil.rmtree(tmp_path / "project" / "base")
        write_base(tmp_path / "project" / "base", seed=1)
        with pytest.raises(UserError, match=r"out: cannot resume, .*base is not the base that this was begun with"):
            compare(config, ["lora", "rlora"], [0], output=folder, resume=True)
    assert (folder / "results.json").read_bytes() == before


def test_asked_to_end_while_it_evaluates(config, tmp_path, monkeypatch):
    folder, evaluated = tmp_path / "out", runs.Runner._evaluated

    def asked(*given):
        if (folder / "runs" / "lora-seed0" / "summary.json").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluated(*given)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(runs.Runner, "_evaluated", asked)
        with pytest.raises(
            Stopped, match=r"out: stopped, and what is finished is kept; the same command with --resume"
        ):
            compare(config, ["lora"], [0], output=folder)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [run["method"] for run in json.loads((folder / "results.json").read_text())["runs"]] == ["base"]
    trained = (folder / "runs" / "lora-seed0" / "summary.json").stat().st_mtime_ns
    results = compare(config, ["lora"], [0], output=folder, resume=True).results
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]
    assert (folder / "runs" / "lora-seed0" / "summary.json").stat().st_mtime_ns == trained
