"""The small project that comparisons are tested on, and one comparison of it."""

from pathlib import Path

import pytest
from tiny_project import write_project, write_run_file

from loraweave.comparison import compare
from loraweave.runs.config import RunConfig


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return RunConfig.load(write_run_file(write_project(tmp_path_factory.mktemp("project"))))


@pytest.fixture(scope="session")
def compared(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """LoRA and R-LoRA with one seed and equal parameters: the results and their folder."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    return compare(config, ["lora", "rlora"], [0], match_params=True, output=folder, command="typed").results, folder
