"""Several processes: the same step as one process on the same rows, and losses per task over all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loraweave

SCRIPT = """
import io, sys
from loraweave.training.config import RunConfig
from loraweave.training.run import train
from rich.console import Console
train(RunConfig.load(sys.argv[1], sys.argv[3:]), sys.argv[2], console=Console(file=io.StringIO()))
"""


def launch(project: Path, output: str, processes: int, *overrides: str) -> Path:
    (project / "train.py").write_text(SCRIPT)
    command = [sys.executable, "train.py"]
    if processes > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            "train.py",
        ]
    subprocess.run(
        [*command, "run.yaml", output, *overrides],
        cwd=project,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(loraweave.__file__).parents[1])},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return project / output


@pytest.mark.long
def test_two_processes_train_like_one(project: Path) -> None:
    # No dropout: each process draws masks of its own.
    settings = ("train.max_steps=4", "train.save_strategy=no", "train.packing=false", "method.lora_dropout=0.0")
    one = launch(project, "one", 1, *settings, "train.per_device_train_batch_size=4")
    two = launch(project, "two", 2, *settings, "train.per_device_train_batch_size=2")
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    for name, value in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], value, atol=1e-4, rtol=1e-3)
    logged = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)
    ]
    assert len(logged[0]) == len(logged[1])
    for single, double in zip(*logged, strict=True):
        for key in single:
            if "loss" in key:
                assert double[key] == pytest.approx(single[key], rel=1e-3)
