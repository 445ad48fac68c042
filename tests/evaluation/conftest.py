"""The small project that evaluation is tested on, loaded once."""

from pathlib import Path

import pytest
from tiny_project import TASKS, write_project

from loraweave.bases import load_base
from loraweave.tasks import load_tasks


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def tasks(project: Path) -> list:
    """parity (multiple choice), double (generation) and notes (a file without any lm-eval task)."""
    return load_tasks(TASKS, base_dir=project)


@pytest.fixture
def base(project: Path) -> tuple:
    """The model and its tokenizer, a fresh one for every test."""
    return load_base(str(project / "base"))
