"""Parts for the tests of training: small rows of two tasks, a trainer on a tiny model, and a small project on disk."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_project import TASKS, byte_tokenizer, write_project
from tiny_rows import NAMES, random_rows

from loraweave.data.plan import RowPlan, validation_plan
from loraweave.data.rows import TaskTokens, TokenRows
from loraweave.data.schedule import Schedule
from loraweave.runs.config import RunConfig
from loraweave.runs.loss_config import LossConfig
from loraweave.runs.settings import build_arguments
from loraweave.training.run import RunResult, train
from loraweave.training.trainer import MultiTaskTrainer


class OneProcess:
    """What `Auxiliary` reads of an accelerator."""

    num_processes, process_index = 1, 0

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor


def as_rows(listed: Sequence[dict[str, list[int]]], tasks: Sequence[int]) -> TokenRows:
    """Token rows from lists, in their order."""
    return TokenRows([TaskTokens.of([row]) for row in listed], tasks)


@pytest.fixture
def rows() -> TokenRows:
    return as_rows(*random_rows())


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., MultiTaskTrainer]:
    """make_trainer(model, rows, **training arguments) -> a trainer on those rows, in their order if not packed."""

    def build(
        model: Any,
        rows: TokenRows,
        packing: bool = False,
        names: Sequence[str] = NAMES,
        losses: LossConfig | None = None,
        **arguments: Any,
    ) -> MultiTaskTrainer:
        values = {
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,  # these tests compare numbers
            **arguments,
        }
        args = build_arguments(values, 0, tmp_path / "run")
        everything, schedule = np.arange(len(rows)), Schedule.of(args)
        plan = RowPlan(rows, lambda _: everything, max_length=64, packing=packing, seed=0, schedule=schedule)
        validation = validation_plan(rows, 64, packing)
        return MultiTaskTrainer(model, args, byte_tokenizer(), plan, validation, names, losses=losses)

    return build


def run(project: Path, *overrides: str, **arguments: Any) -> RunResult:
    """Train by a project's run file, with settings put over it; `arguments` as of `train`, nothing on the terminal."""
    config = RunConfig.load(project / "run.yaml", overrides)
    arguments.setdefault("console", Console(file=io.StringIO()))
    return train(config, arguments.pop("output", project / "out"), **arguments)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a random base, three small tasks and `run.yaml`."""
    write_project(tmp_path / "project")
    tasks = [task if isinstance(task, str) else task["task"] for task in TASKS]
    (tmp_path / "project" / "run.yaml").write_text(
        f"""\
model: base
method: {{name: lora, r: 2}}
tasks: [{", ".join(tasks)}]
train:
  num_train_epochs: 2
  per_device_train_batch_size: 4
  max_length: 64
  learning_rate: 1e-2
  logging_steps: 1
"""
    )
    return tmp_path / "project"
