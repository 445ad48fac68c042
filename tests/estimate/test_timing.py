"""How long a run would take, from a few real steps."""

from pathlib import Path

import pytest
from tiny_project import write_project, write_run_file

from loraweave.cli.app import run
from loraweave.errors import UserError
from loraweave.estimate.dry_run import dry_run
from loraweave.estimate.timing import STEPS, measure
from loraweave.runs.config import RunConfig


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("timing") / "project")
    write_run_file(folder)
    return folder


def test_the_time_is_that_of_the_whole_runs_tokens(project: Path):
    config = RunConfig.load(project / "run.yaml", ["train.max_steps=400"])
    found = dry_run(config)
    timing = measure(config, found.realised)
    assert timing.steps == STEPS - 1
    tokens = sum(row["tokens"] for row in found.realised)
    assert timing.seconds == pytest.approx(tokens / timing.tokens_per_second)
    assert [path.name for path in project.iterdir() if path.is_dir()] == ["base"]  # nothing is left of the steps


def test_without_data_there_is_nothing_to_measure(project: Path):
    with pytest.raises(UserError, match="--measure: data and tokenizer must be at hand"):
        measure(RunConfig.load(project / "run.yaml"), [])


def test_the_dry_run_says_what_it_has_and_what_not(project: Path, capsys: pytest.CaptureFixture[str]):
    command = ["train", str(project / "run.yaml"), "--dry-run", "--set", f"output={project}/out"]
    assert run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not measured; --measure takes a few steps on this machine" in said
    assert "no prompt is cut, and no example left out" in said
    assert "a plain LoRA: is one; merges: yes; LoRA servers: yes" in said
    assert "dry run: nothing was trained, nothing was written" in said
    assert run([*command, "--measure", "--set", "method=rlora"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of training steps" in said
    assert f"{STEPS} steps were taken, and thrown away, nothing was written" in said
    assert "LoRA servers: loraweave serve" in said
    assert not (project / "out").exists()
    assert run(["train", str(project / "run.yaml"), "--measure"]) == 2
