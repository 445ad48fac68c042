"""Encoded examples on disk, so that the runs of a comparison, the processes of a run and later runs encode them once.

An entry is a safetensors file, mapped into memory and not read. Its name is a hash of all that its content follows
from, so it is never out of date; entries may be deleted at any time.
"""

import datetime
import hashlib
import importlib.metadata
import inspect
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

import loraweave
from loraweave.bases import without_row
from loraweave.data.encode import encode_all
from loraweave.data.identity import content_hash, tokenizer_hash
from loraweave.data.rows import TaskTokens
from loraweave.errors import UserError
from loraweave.files import write_bytes
from loraweave.tasks.examples import Example

FORMAT = 1
ROOMS = ("data", "tasks")  # whose code decides how an example is encoded
ARRAYS = ("ids", "trained", "starts", "kept", "counts")
PACKAGES = ("transformers", "tokenizers", "jinja2")


def cache_folder() -> Path:
    """Where entries are: `$LORAWEAVE_CACHE`, else `loraweave` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    if own := os.environ.get("LORAWEAVE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loraweave"


class TokenStore:
    """Encodes examples with one tokenizer, or finds them encoded. Processes and threads may use a folder at once.

    Where the folder cannot be written to, or the tokenizer is not one of transformers' own, whose content can be told
    from its files, everything is encoded anew.

    Args:
        tokenizer: as it encodes; with its chat template.
        folder: of the entries; by default `tokens` in `cache_folder()`.
    """

    def __init__(self, tokenizer: Any, folder: Path | None = None) -> None:
        self.tokenizer = tokenizer
        self.folder = folder or cache_folder() / "tokens"
        self._identity = _identity(tokenizer)

    def encoded(
        self, examples: Sequence[Example], max_length: int, report: Callable[[int], None] = lambda done: None
    ) -> TaskTokens:
        """The examples of one task as `encode_all` encodes them.

        Args:
            max_length: tokens that an example may have.
            report: told the number of examples done, where they have to be encoded.

        Raises:
            UserError: as `encode_all`; nothing is stored then.
        """
        if self._identity is None or not examples:
            return self._encode(examples, max_length, report)
        key = [FORMAT, _code(), self._identity, max_length, content_hash(examples)]
        path = self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"
        if (found := read(path)) is not None:
            return found
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path):
                if (found := read(path)) is None:  # nobody has encoded them meanwhile
                    return self._stored(path, self._encode(examples, max_length, report))
                return found
        except OSError:
            return self._encode(examples, max_length, report)

    def _encode(self, examples: Sequence[Example], max_length: int, report: Callable[[int], None]) -> TaskTokens:
        def counted() -> Iterator[Example]:
            for number, example in enumerate(examples):
                report(number)
                yield example

        encoded = encode_all(counted(), self.tokenizer, max_length)
        return TaskTokens.of(encoded.rows, encoded.kept, encoded.cut, encoded.dropped)

    def _stored(self, path: Path, tokens: TaskTokens) -> TaskTokens:
        try:
            write(path, tokens)
        except UserError:  # a full disk costs the entry and not the run
            return tokens
        return read(path) or tokens


def _identity(tokenizer: Any) -> str | None:
    """A hash of all that a tokenizer's output follows from beside the code; None where that cannot be told.

    A template that writes the date makes another tokenizer of it every day.
    """
    if (hashed := tokenizer_hash(tokenizer)) is None:
        return None
    dated = "strftime_now" in str(getattr(tokenizer, "chat_template", ""))
    parts = [type(tokenizer).__qualname__, hashed, sorted(without_row(tokenizer).items())]
    parts += [datetime.date.today().isoformat()] if dated else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """A hash of the code that encodes, ours and the libraries'."""
    root = Path(inspect.getfile(loraweave)).parent
    digest = hashlib.sha256()
    for file in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        digest.update(file.read_bytes())
    digest.update(" ".join(importlib.metadata.version(name) for name in PACKAGES).encode())
    return digest.hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While others wait who want to write the same entry; beside them where the file system has no locks."""
    lock = filelock.FileLock(path.with_suffix(".lock"), is_singleton=False, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def write(path: Path, tokens: TaskTokens) -> None:
    """Write an entry.

    Raises:
        UserError: the disk is full, or the folder is not to be written to.
    """
    arrays = {
        "ids": tokens.ids,
        "trained": tokens.trained,
        "starts": tokens.starts,
        "kept": tokens.kept,
        "counts": np.array([tokens.cut, tokens.dropped]),
    }
    write_bytes(path, save(arrays, {"crc32": str(_checksum(arrays))}))


def read(path: Path) -> TaskTokens | None:
    """An entry, mapped into memory; None where there is none, or one that is not as it was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name).numpy() for name in ARRAYS}
            if file.metadata()["crc32"] != str(_checksum(arrays)):
                return None
        cut, dropped = arrays.pop("counts").tolist()
        return TaskTokens(**arrays, cut=cut, dropped=dropped)
    except Exception:  # whatever is wrong with it, it will be made anew
        return None


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(value.data, zlib.crc32(f"{name} {value.dtype} {value.shape}".encode(), total))
    return total
