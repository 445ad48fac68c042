"""A folder is one command's alone: the second is refused, and told which is the first."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest
from tiny_project import write_project, write_run_file

from loraweave.comparison import compare
from loraweave.errors import UserError
from loraweave.files import LOCK, is_left_over, locked
from loraweave.runs.config import RunConfig
from loraweave.training.run import train

HOLDER = """
import sys
from pathlib import Path
from loraweave.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the folder's lock while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with held_by_another(folder) as other:
        for _ in range(2):  # that it was refused changes nothing for the first
            with pytest.raises(UserError, match=rf"out: process {other.pid} on .*, since .* is at work in this folder"):
                locked(folder).__enter__()
    assert [path.name for path in folder.iterdir()] == [".lock"]  # it was killed
    with locked(folder):
        pass
    assert list(folder.iterdir()) == []


def test_a_holder_that_has_not_said_yet_who_it_is_is_waited_for(tmp_path: Path) -> None:
    lock = filelock.FileLock(tmp_path / LOCK)
    with lock:
        late = threading.Timer(0.3, (tmp_path / LOCK).write_text, ["process 1 on here, since now,"])
        late.start()
        with pytest.raises(UserError, match="process 1 on here"):
            locked(tmp_path).__enter__()
        late.join()


def test_a_thread_or_a_call_within_is_refused_as_well(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on"), locked(tmp_path):
        pass


def test_a_folder_made_for_nothing_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        assert all(map(is_left_over, (tmp_path / "mine").iterdir()))
    assert (tmp_path / "mine").is_dir()


def test_runs_and_comparisons_refuse_a_folder_at_work_in_and_leave_it_alone(tmp_path: Path) -> None:
    config = RunConfig.load(write_run_file(write_project(tmp_path)))
    with held_by_another(tmp_path / "out"):
        for resume in (False, True):
            with pytest.raises(UserError, match="is at work in this folder"):
                train(config, tmp_path / "out", resume=resume)
            with pytest.raises(UserError, match="is at work in this folder"):
                compare(config, ["lora"], [0], output=tmp_path / "out", resume=resume)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    train(config, tmp_path / "out")  # what the killed one left is in nobody's way
    assert not (tmp_path / "out" / ".lock").exists()
