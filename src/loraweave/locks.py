"""A folder or a file that is one command's alone: a second process is refused, and told which is the first."""

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import filelock

from loraweave.errors import UserError
from loraweave.files import LOCK, aside, disk_is_full, make_folder


@contextmanager
def locked(folder: Path, what: str = "the folder", patience: float = 0.0) -> Iterator[None]:
    """A folder that is this command's alone while the block runs; made if it is not there, and not left if empty,
    nor are those around it.

    Where the file system has no locks, nothing keeps others out.

    Args:
        folder: to be locked.
        what: it is called if it cannot be made.
        patience: seconds to wait for another process that has it.

    Raises:
        UserError: another process has it, which is named; or the folder cannot be made, or not be written to.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder, what)
    try:
        with _held(folder / LOCK, folder, "is at work in this folder", patience):
            yield
    finally:
        with suppress(OSError):
            for path in new:
                path.rmdir()


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """A file that is this command's alone while the block runs; its folder must be there. See `locked`."""
    with _held(aside(path, "lock"), path, "is writing this file", 0.0):
        yield


@contextmanager
def locked_new(folder: Path) -> Iterator[None]:
    """A folder that is still to be made, this command's alone while the block runs; its lock lies beside it.

    Raises:
        UserError: as `check_new`; or as `locked`.
    """
    check_new(folder)
    new = [path for path in folder.parents if not path.exists()]
    make_folder(folder.parent)
    try:
        with _held(aside(folder, "lock"), folder, "is writing this folder", 0.0):
            check_new(folder)  # another process may just have ended there
            yield
    finally:
        with suppress(OSError):
            for path in new:
                path.rmdir()


def check_new(folder: Path) -> None:
    """Raise UserError where something is at `folder` already, be it more than an empty folder."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already; choose another output")


@contextmanager
def _held(path: Path, what: Path, does: str, patience: float) -> Iterator[None]:
    """The lock at `path`; who has it already `does` something to `what`."""
    lock = _acquired(path, what, does, patience)
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def _acquired(path: Path, what: Path, does: str, patience: float) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path, timeout=patience, is_singleton=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        path.write_text(f"process {os.getpid()} on {platform.node()}, since {since},", encoding="utf-8")
    except filelock.Timeout:
        raise UserError(f"{what}: {_holder(path)} {does}; wait until it has ended") from None
    except NotImplementedError:
        pass
    except OSError as error:
        full_or_without_locks = disk_is_full(error) or error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
        if not full_or_without_locks:
            raise UserError(f"{what}: cannot be written to: {error.strerror or error}") from error
    return lock


def _holder(lock: Path) -> str:
    """Who holds a lock, as far as that can be read. A holder says it right after it has taken the lock."""
    patience = time.monotonic() + 2.0
    with suppress(OSError):
        while time.monotonic() < patience:
            if name := lock.read_text(encoding="utf-8", errors="replace"):
                return name
            time.sleep(0.02)
    return "another process"
