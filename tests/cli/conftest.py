"""The small project and one trained run of it, for the command line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_project import write_project, write_run_file

from loraweave.cli.app import run as run_command


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with run.yaml."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    write_run_file(folder)
    return folder


@pytest.fixture(scope="session")
def trained_once(project: Path) -> Path:
    """A finished run of it, to be left as it is."""
    folder = project / "trained"
    assert run_command(["train", str(project / "run.yaml"), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of it, the test's own."""
    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("run") / "trained"))


@pytest.fixture
def command(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """command(*arguments) -> exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
