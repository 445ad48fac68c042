"""Several processes: the same step as one process on the same rows, and losses per task over all of them."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import loraweave
from loraweave import UserError
from loraweave.bases import load_base
from loraweave.config import PRESETS
from loraweave.runs.config import RunConfig
from loraweave.training.run import train

SETTINGS = [  # no dropout: each process draws masks of its own
    "train.max_steps=4",
    "train.eval_strategy=steps",
    "train.eval_steps=2",
    "train.save_strategy=no",
    "train.bf16=false",
    "method.lora_dropout=0.0",
]
ONE, TWO = "train.per_device_train_batch_size=4", "train.per_device_train_batch_size=2"
KINDS = {"ddp": [], "fsdp2": ["train.fsdp=true", "train.fsdp_config={version: 2}"]}


def launch(folder: Path, *arguments: str) -> None:
    """`processes.py` in two processes, in a folder."""
    script = Path(__file__).with_name("processes.py")
    paths = [str(Path(loraweave.__file__).parents[1]), str(script.parents[1])]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[done.stderr.find("Traceback") :][:4000]


def processes_of(launcher: int) -> list[int]:
    """A launcher and those that it has started, which have groups of their own."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [launcher, *map(int, children)]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "loss" in key} for line in lines]


TELLING = ["rlora", "mtllora"]  # a router and a frozen anchor; tensors for each task
OTHERS = [name for name in PRESETS if name not in TELLING]


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(TELLING[:1], id="one method"),
        pytest.param([*TELLING[1:], *OTHERS, "lora"], id="the others", marks=pytest.mark.long),
    ],
)
def test_two_processes_train_like_one(project: Path, methods: list[str]) -> None:
    jobs = [
        (f"{kind}/{name}", [*SETTINGS, TWO, *more, f"method.name={name}"], False)
        for name in methods
        for kind, more in KINDS.items()
    ]
    launch(project, "runs", json.dumps(jobs))
    for name in methods:
        config = RunConfig.load(str(project / "run.yaml"), [*SETTINGS, ONE, f"method.name={name}"])
        one = train(config, project / "one" / name, console=Console(file=io.StringIO())).folder
        for kind in KINDS:
            two = project / kind / name
            for step, expected in zip(losses(two), losses(one), strict=True):
                assert step == pytest.approx(expected, rel=1e-4), (kind, name)
            assert {*adapter(two)} == {*adapter(one)}
            torch.testing.assert_close(adapter(two), adapter(one), atol=1e-4, rtol=1e-3)


def test_rows_that_do_not_come_out_even_are_seen_once(project: Path) -> None:
    """150 rows to validate on and 13 to train on, of different lengths, by two processes: every number is as by one."""
    for name, count in (("few", 13), ("many", 150)):
        lines = [{"prompt": f"{i} is", "completion": " " + "ab" * (i % 7 + 1)} for i in range(count)]
        (project / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = (project / "run.yaml").read_text().splitlines()
    run = ["tasks: [{task: few.jsonl, validation: many.jsonl}]" if line.startswith("tasks") else line for line in run]
    (project / "run.yaml").write_text("\n".join(run) + "\n")
    settings = [
        "train.num_train_epochs=1.5",
        "train.per_device_eval_batch_size=8",
        "train.eval_strategy=steps",
        "train.eval_steps=3",
        "train.save_strategy=no",
        "train.bf16=false",
        "method.lora_dropout=0.0",
    ]
    packings = ["true", "false"]
    jobs = [(f"two/{packing}", [*settings, TWO, f"train.packing={packing}"], False) for packing in packings]
    launch(project, "runs", json.dumps(jobs))
    for packing in packings:
        config = RunConfig.load(str(project / "run.yaml"), [*settings, ONE, f"train.packing={packing}"])
        one = train(config, project / "one" / packing, console=Console(file=io.StringIO())).folder
        two = project / "two" / packing
        assert losses(two) == [pytest.approx(step, rel=1e-5) for step in losses(one)]
        assert (two / "mixture.json").read_text() == (one / "mixture.json").read_text()
        for folder in (one, two):
            tokens = json.loads((folder / "summary.json").read_text())["tokens"]
            assert tokens == sum(task["tokens"] for task in json.loads((folder / "mixture.json").read_text()))
        torch.testing.assert_close(adapter(two), adapter(one), atol=1e-5, rtol=1e-4)


def test_a_base_that_is_needed_afterwards_is_not_sharded(project: Path) -> None:
    config = RunConfig.load(str(project / "run.yaml"), [*SETTINGS, *KINDS["fsdp2"]])
    with pytest.raises(UserError, match="FSDP keeps the base"):
        train(config, project / "out", base=load_base(config.model))
    assert not (project / "out").exists()


@pytest.mark.long
def test_a_sharded_run_goes_on_where_it_stopped(project: Path) -> None:
    settings = [*SETTINGS, *KINDS["fsdp2"], TWO, "train.save_strategy=steps", "train.save_steps=2", "method.name=rlora"]
    launch(project, "runs", json.dumps([("whole", settings, False), ("cut", settings, False)]))
    cut = project / "cut"
    shutil.rmtree(cut / "adapter")
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    (cut / "summary.json").unlink()
    launch(project, "runs", json.dumps([("cut", settings, True)]))
    torch.testing.assert_close(adapter(cut), adapter(project / "whole"), atol=1e-6, rtol=1e-4)
    assert losses(cut) == [pytest.approx(step, rel=1e-5) for step in losses(project / "whole")]


@pytest.mark.long
def test_sharded_runs_with_other_settings(project: Path) -> None:
    """What changes how a model is run or wrapped; each equals the same run in one process."""
    more = {
        "checkpointing": ["train.gradient_checkpointing=true"],
        "fsdp's own checkpointing": ["train.fsdp_config={version: 2, activation_checkpointing: true}"],
        "accumulation": ["train.gradient_accumulation_steps=2", "train.max_steps=2"],  # less than an epoch
        "best": ["train.load_best_model_at_end=true", "train.save_strategy=steps", "train.save_steps=2"],
        "alignment": ["method.alignment=0.2"],
    }
    common = [*SETTINGS, "method.name=mtllora"]
    launch(project, "runs", json.dumps([(k, [*common, *KINDS["fsdp2"], TWO, *v], False) for k, v in more.items()]))
    for name, settings in more.items():
        here = [setting for setting in settings if "fsdp" not in setting]
        config = RunConfig.load(str(project / "run.yaml"), [*common, ONE, *here])
        one = train(config, project / "one" / name, console=Console(file=io.StringIO())).folder
        assert losses(project / name) == [pytest.approx(step, rel=1e-4) for step in losses(one)], name
        torch.testing.assert_close(adapter(project / name), adapter(one), atol=1e-4, rtol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("methods", [pytest.param(TELLING, id="two methods"), pytest.param(OTHERS, id="the others")])
def test_blocks_sharded_by_hand(tmp_path: Path, methods: list[str]) -> None:
    launch(tmp_path, "by_hand", ",".join(methods))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which processes there are")
@pytest.mark.parametrize("whom", ["the launcher", "every process", "one of them"])
def test_processes_that_are_asked_to_end_save_and_say_how_to_go_on(project: Path, whom: str) -> None:
    """Losses are logged rarely: nobody waits for that."""
    settings = [*SETTINGS[1:], TWO, "train.max_steps=600", "train.eval_strategy=no", "train.logging_steps=300"]
    asked = [f"--set={each}" for each in (*settings, "train.report_to=none")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command += [sys.executable, "-c", "from loraweave.cli import main; main()", "train", "run.yaml", "--output", "out"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(loraweave.__file__).parents[1]),
    }
    told = project / "told.txt"
    with told.open("w") as errors:
        process = subprocess.Popen(
            [*command, *asked], cwd=project, env=environment, stderr=errors, stdout=errors, start_new_session=True
        )
        until = time.monotonic() + 600
        while "step 60/600" not in told.read_text():
            assert process.poll() is None, told.read_text()
            assert time.monotonic() < until, told.read_text()
            time.sleep(0.05)
        everybody = processes_of(process.pid)
        assert len(everybody) > 2
        for one in {"the launcher": everybody[:1], "every process": everybody, "one of them": everybody[-1:]}[whom]:
            os.kill(one, signal.SIGTERM)
        assert process.wait(timeout=300) != 0
    found = re.search(
        r"stopped after step (\d+) of 600, which is saved; the same command with --resume goes on", told.read_text()
    )
    assert found, told.read_text()
    assert int(found[1]) < 600
    assert (project / "out" / "checkpoints" / f"checkpoint-{found[1]}" / "manifest.json").exists()
    done = subprocess.run(
        [*command, *asked, "--resume"], cwd=project, env=environment, timeout=600, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evaluate ") == 1, done.stdout  # one of the processes tells
    assert json.loads((project / "out" / "summary.json").read_text())["steps"] == 600
