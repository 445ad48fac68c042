"""A folder is one command's alone: the second is refused, and told which is the first."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest
from tiny_project import write_project, write_run_file
from tiny_runs import SMALL, random_run

from loraweave import commands, evaluate
from loraweave.comparison import compare
from loraweave.errors import UserError
from loraweave.evaluation import record as record_room
from loraweave.files import LOCK, is_left_over, read_json
from loraweave.locks import locked, locked_new
from loraweave.runs.config import RunConfig
from loraweave.training.run import train

HOLDER = """
import sys
from pathlib import Path
from loraweave.locks import locked
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


def test_a_new_folder_is_written_by_one_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with pytest.raises(UserError, match="is writing this folder"), locked_new(folder), locked_new(folder):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked_new(folder):
        folder.mkdir()
        (folder / "mine.txt").touch()
    with pytest.raises(UserError, match="something already"):
        locked_new(folder).__enter__()
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


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


def test_an_evaluation_waits_until_another_of_the_run_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = random_run(write_project(tmp_path / "project"), {"name": "lora", **SMALL}, tmp_path / "run")
    with held_by_another(run) as other:
        threading.Timer(1.0, other.kill).start()
        assert evaluate(run, tasks=["parity"], limit=1, base=False).results.is_file()
        assert other.wait(1) is not None  # it had ended before
    monkeypatch.setattr(commands, "WAIT", 0.1)
    with held_by_another(run), pytest.raises(UserError, match=r"run: process \d+ on .* is at work in this folder"):
        evaluate(run, tasks=["parity"], limit=2, base=False)
    assert [each["settings"]["limit"] for each in read_json(run / "results.json")["evaluations"]] == [1]


def test_two_evaluations_that_end_at_once_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = random_run(write_project(tmp_path / "project"), {"name": "lora", **SMALL}, tmp_path / "run")
    evaluate(run, tasks=["notes"], limit=1, base=False)
    other = threading.Thread(target=lambda: evaluate(run, tasks=["double"], limit=1, base=False))
    read, reads = record_room.read_shaped, list[Any]()

    def slowly(*args: Any) -> Any:
        content = read(*args)
        if threading.current_thread() is not other:
            reads.append(args)
        if threading.current_thread() is not other and len(reads) == 2:  # the first is before anything is scored
            other.start()
            other.join(3)  # it would end now, between this one's reading and writing
        return content

    monkeypatch.setattr(record_room, "read_shaped", slowly)
    evaluate(run, tasks=["parity"], limit=1, base=False)
    other.join()
    kept = read_json(run / "results.json")["evaluations"]
    assert [each["settings"]["tasks"] for each in kept] == [["notes"], ["parity"], ["double"]]


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
