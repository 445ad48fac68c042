"""One small project for all tests of the server, and one server that most of them ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("openai", reason="the extra `serve` is not installed")
from tiny_server import Process, process, run_of, write_served_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_served_project(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def run(project: Path) -> Path:
    """An adapter with an answer of its own for each of three tasks."""
    return run_of(project, "mtllora", project / "mixed")


@pytest.fixture(scope="session")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """`loraweave serve` on it, as a process."""
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    with process(str(run), "--batch", "8", "--answer", "16", log=log) as running:
        yield running
