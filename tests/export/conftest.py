"""A small project, and finished runs of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_project import write_project
from tiny_runs import random_run


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """finished(method) -> the folder of a run; the same one for the same method."""
    made: dict[str, Path] = {}

    def find(method: Any) -> Path:
        key = repr(method)
        if key not in made:
            made[key] = random_run(project, method, tmp_path_factory.mktemp("runs") / "run")
        return made[key]

    return find


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-llama-cpp", metavar="JSON", help="keep how far llama.cpp is from transformers")
    parser.addoption("--write-vllm", metavar="JSON", help="keep how far vLLM is from transformers")
    parser.addoption("--write-export", metavar="PAGE", help="print the table of exports into this page")
