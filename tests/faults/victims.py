"""Runs that are made to go wrong: a small project, and a server that carries commands out in processes of their own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny_project import TASKS, write_project

SERVER = Path(__file__).parent / "server.py"
Answer = dict[str, Any]

LENGTHS = {"whole": {"num_train_epochs": 2}, "broken": {"max_steps": 7}}
"""An end at an epoch's last step, which is the fourth, and one amid an epoch."""

METHODS = {
    "lora": {"name": "lora", "r": 2, "lora_dropout": 0.1},
    "rlora": {"name": "rlora", "r": 2},
    "mtllora": {"name": "mtllora", "r": 2, "lora_dropout": 0.1},
    "full": {"name": "full"},
}


class Victims:
    """Carries out commands on one small project.

    Args:
        folder: for the project and what is made of it.
        within: a command that starts the server, which is added to it.

    Attributes:
        known: of runs that were let be, by name: how many events each had, and how many seconds it took.
    """

    def __init__(self, folder: Path, within: Sequence[str] = ()) -> None:
        self.folder = folder
        self.known: dict[str, tuple[int, float]] = {}
        self.project = write_project(folder / "project")
        self.errors = (folder / "server.txt").open("w+")
        self.process = subprocess.Popen(
            [*within, sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "OMP_NUM_THREADS": "1",
                "HF_HOME": str(folder / "huggingface"),
                "LORAWEAVE_CACHE": str(folder / "cache"),
            },
        )

    def close(self) -> None:
        """End the server."""
        self.process.communicate()
        self.errors.close()

    def orders(self, command: str, output: Path, config: dict[str, Any] | None = None, **more: Any) -> list[Answer]:
        """Have a command carried out `at_once` so many times; see `server.ended` for what comes back of each.

        Args:
            command: one of `server.COMMANDS`.
            output: the folder that it is about.
            config: of the run.
            more: what the command asks for, and how it goes wrong: `kill_at` an event or `kill_after` seconds, `ask_at`
                an event or `ask` instead of killing, `user` to be.
        """
        order = {"command": command, "output": str(output), "config": config or self.config(), "resume": False, **more}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its end is told below
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        self.errors.seek(0)
        raise AssertionError(f"the server has ended ({self.process.wait()}): {self.errors.read()[-2000:]}")

    def order(self, command: str, output: Path, config: dict[str, Any] | None = None, **more: Any) -> Answer:
        """Have a command carried out once; see `orders`."""
        return self.orders(command, output, config, **more)[0]

    def whole(
        self, method: str = "rlora", schedule: str = "cosine", length: str = "broken"
    ) -> tuple[Path, dict, int, float]:
        """A run that is let be: its folder, its configuration, how many events it has and how many seconds it takes."""
        name, config = f"{method}-{schedule}-{length}", self.config(method, schedule, length)
        if name not in self.known:
            answer = self.order("train", self.folder / name, config)
            assert answer["ended"] == "well", answer
            self.known[name] = (answer["events"], answer["seconds"])
        return (self.folder / name, config, *self.known[name])

    def config(
        self, method: str = "rlora", schedule: str = "cosine", length: str = "broken", **train: Any
    ) -> dict[str, Any]:
        """A run of seven or eight steps that saves after every second one, and evaluates at the end of each epoch."""
        return {
            "model": str(self.project / "base"),
            "method": METHODS[method],
            "tasks": TASKS,
            "base_dir": str(self.project),
            "mixture": {"strategy": "equal", "total": 16},
            "train": {
                **LENGTHS[length],
                "lr_scheduler_type": schedule,
                "learning_rate": 1e-2,
                "max_length": 64,
                "per_device_train_batch_size": 4,
                "packing": False,
                "logging_steps": 1,
                "eval_strategy": "epoch",
                "save_strategy": "steps",
                "save_steps": 2,
                "report_to": "none",
                **train,
            },
        }

    def empty(self, name: str) -> Path:
        """A folder that is not there."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run trained."""
    files = [*(run / "adapter").glob("*.safetensors"), *(run / "model").glob("*.safetensors")]
    return {name: value for file in files for name, value in load_file(file).items()}


def logged(run: Path) -> list[dict[str, Any]]:
    """A run's metrics, but for what a clock says, and for the mean loss of steps that were trained on twice."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def differences(run: Path, whole: Path) -> list[str]:
    """In what a run that was killed differs from one that was not."""
    found = []
    one, other = weights(run), weights(whole)
    if one.keys() != other.keys() or not all(torch.equal(value, other[name]) for name, value in one.items()):
        found.append("weights")
    if logged(run) != logged(whole):
        found.append("metrics")
    if files(run) != files(whole):
        found.append(f"files: {sorted(files(run) ^ files(whole))}")
    for name in ("routing.json", "gradients.json", "mixture.json", "data.json"):
        texts = [(folder / name).read_text() if (folder / name).exists() else None for folder in (run, whole)]
        if texts[0] != texts[1]:
            found.append(name)
    return found


def files(run: Path) -> set[str]:
    """The names of all that lies in a run's folder."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*")}
