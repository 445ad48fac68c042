"""Saving so that a full disk or a crash never costs the last good checkpoint."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loraweave.errors import UserError

# What safetensors and torch's zip writer say, without an errno, when a write comes up short.
_FULL = ("No space left", "os error 28", "os error 27", "failed writing file", "unexpected pos", "iostream error")


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error.

    Raises:
        UserError: the disk is full; what was at `folder` before is still there.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if disk_is_full(error):
            raise UserError(f"{folder}: the disk is full, so this was not saved; nothing was written over") from error
        raise


@contextmanager
def saved_or_removed(checkpoint: Path) -> Iterator[None]:
    """Around the saving of a checkpoint: if that fails, half a checkpoint is not left behind.

    Raises:
        UserError: the disk is full; names the last good checkpoint, which is still there.
    """
    try:
        yield
    except Exception as error:
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
        if disk_is_full(error):
            last = last_good_checkpoint(checkpoint.parent)
            kept = f"the last good one is {last}" if last else "there is none before it"
            raise UserError(f"{checkpoint}: the disk is full, so this checkpoint was not saved; {kept}") from error
        raise


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder of checkpoints."""
    complete = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    return max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes its own state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def write_text(path: Path, content: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: the disk is full; what was at `path` before is still there.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if disk_is_full(error):
            raise UserError(f"{path}: the disk is full, so this was not saved; nothing was written over") from error
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; see `write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        UserError: the file is missing, or it holds something else than a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: cannot be read: a JSON object is wanted, not {type(content).__name__}")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one on each line, such as metrics.jsonl; none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error means that there is no room; torch and safetensors say so in words of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        text = str(error)
        if any(words in text for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
