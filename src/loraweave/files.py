"""Where files are written: whole or not at all, whatever happens to the process, the disk or the machine.

A file or folder is written aside (`NAME.unfinished`), brought to the disk, and renamed.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, shown
from loraweave.paths import REPLACED, UNFINISHED, is_inside
from loraweave.stopping import Stopped

LOCK = ".lock"  # of a folder, see `loraweave.locks`
# What safetensors and torch's zip writer say, without an errno, when a write comes up short.
_FULL = ("No space left", "os error 28", "os error 27", "failed writing file", "unexpected pos", "iostream error")


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))  # half a character, in JSON's own spelling of it


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: the disk is full, or the file may not be written; what was at `path` before is still there.
    """
    unfinished = aside(path, UNFINISHED)
    with _written_or_told(path, lambda: unfinished.unlink(missing_ok=True)):
        unfinished.unlink(missing_ok=True)  # it may be a link of somebody's to anywhere
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(path.parent)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a JSON file; see `write_bytes`. A number that is not finite becomes null."""
    write_text(path, json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file with an object on each line; see `write_json`."""
    write_text(path, "".join(map(_json_line, lines)))


def append_json_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add an object to a file that has one on each line. A crash can leave the last line torn, and no other.

    Raises:
        UserError: the disk is full, or the file may not be written.
    """
    with _written_or_told(path), path.open("a", encoding="utf-8") as file:
        file.write(_json_line(line))


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error.

    The old folder stays beside it until the new one stands in its place; `mended` brings it back after a crash between.

    Raises:
        UserError: the disk is full, or the folder may not be written; what was at `folder` before is still there.
    """
    mended(folder)
    unfinished = aside(folder, UNFINISHED)
    _remove(unfinished)

    def put_back() -> None:
        mended(folder)
        _remove(unfinished)

    with _written_or_told(folder, put_back):
        unfinished.mkdir(parents=True)
        yield unfinished
        put_in_place(unfinished, folder)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Bring a folder to the disk and give it its name; what was there before stays until then."""
    old = aside(folder, REPLACED)
    mode = unfinished.stat().st_mode & 0o666  # safetensors makes files that their owner alone may read
    for path in unfinished.rglob("*"):
        if path.is_file() and path.stat().st_nlink == 1:  # one that is linked is somebody else's too
            path.chmod(mode)
    sync_tree(unfinished)
    if os.path.lexists(folder):
        os.replace(folder, old)
    os.replace(unfinished, folder)
    sync(folder.parent)
    _remove(old)


def mended(folder: Path) -> Path:
    """The folder, brought back where a crash came between taking it away and putting the new one in its place."""
    old = aside(folder, REPLACED)
    if os.path.lexists(old):
        if os.path.lexists(folder):
            _remove(old)
        else:
            os.replace(old, folder)
    return folder


def make_folder(path: Path, what: str = "the folder") -> None:
    """Make a folder if it is not there.

    Raises:
        UserError: it cannot be made; calls it `what`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be made: {error.strerror}") from error


def is_left_over(path: Path) -> bool:
    """Whether a file or folder is one of ours that a kill kept from being written whole, or from being removed."""
    return path.name == LOCK or path.suffix in (f".{UNFINISHED}", f".{REPLACED}")


def read_file(path: Path) -> bytes:
    """All that a file holds.

    Raises:
        OSError: it cannot be read, or it is no file: a device or a pipe may have no end.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, and no file", str(path))
    return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        UserError: the file is missing, or it holds something else than a JSON object.
    """
    try:
        content = json.loads(read_file(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: cannot be read: a JSON object is wanted, not {type(content).__name__}")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one on each line, such as metrics.jsonl; none where there is no such file.

    A last line without its end, which a crash leaves, is left out.

    Raises:
        UserError: the file cannot be read, or a line holds something else than a JSON object; names the line.
    """
    try:
        lines = read_file(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line's end is nothing, or torn
        try:
            content = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{path}, line {number}: a JSON object is wanted")
        found.append(content)
    return found


def finite(content: Any) -> Any:
    """Plain values with None in place of every number that is not finite, which JSON has no word for."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def aside(path: Path, word: str) -> Path:
    """Where something lies beside `path` for a while."""
    return path.with_name(f"{path.name}.{word}")


def file_hash(path: Path) -> str:
    """A hash of a file's content: 64 hexadecimal digits, SHA-256."""
    digest, part = hashlib.sha256(), memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            digest.update(part[:count])
    return digest.hexdigest()


def hashes_of(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def damage(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """What is wrong with a folder whose files had these hashes, in words; None where all are as they were."""
    for name, hashed in hashes.items():
        if not is_inside(name):
            return f"{shown(name)} is no file in it"
        try:
            if not (folder / name).is_file():
                return f"{name} is missing"
            found = file_hash(folder / name)
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {error}"
        if found != hashed:
            return f"{name} is not as it was written"
    return None


def check_links(folder: Path) -> None:
    """Raise UserError where a link in a folder leads out of it: what is written there, or sent, would be others'."""
    home = os.path.join(os.path.realpath(folder), "")
    for here, folders, files in os.walk(folder):
        for path in (Path(here) / name for name in (*folders, *files)):
            if path.is_symlink() and not os.path.realpath(path).startswith(home):
                raise UserError(f"{path}: a link that leads out of the folder; put what it leads to in its place")


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; file systems that cannot do it for a folder are let be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Bring a folder with all that is in it to the disk."""
    for here, _, names in os.walk(folder):
        for name in names:
            sync(Path(here) / name)
        sync(Path(here))


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


@contextmanager
def _written_or_told(path: Path, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    try:
        yield
    except (Exception, KeyboardInterrupt, Stopped) as error:
        with suppress(OSError):
            undo()
        if disk_is_full(error):
            raise UserError(f"{path}: the disk is full, so this was not saved; nothing was written over") from error
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


def _remove(path: Path) -> None:
    """Take away a folder with all that is in it, a link (and not what it points to), or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _json_line(line: Mapping[str, Any]) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"
