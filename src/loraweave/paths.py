"""Paths that people write, where what cannot be one is said in a line; and names of folders made of what they write."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from loraweave.errors import UserError, shown

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that the usual file systems take."""
UNFINISHED, REPLACED = "unfinished", "loraweave-old"
"""Ends of names under which files and folders lie aside while they are written; the second is none that a person gives
to a copy, since what is called so is brought back or removed."""


def user_path(written: str | Path, start: str | Path = "") -> Path:
    """The path that a person wrote, `~` taken for the home folder. Nothing need be there.

    Args:
        written: absolute, or relative to `start`.
        start: the folder where a relative one starts.

    Raises:
        UserError: no path can be like that: an unknown user's home, a character that no name has, a name too long.
    """
    text = str(written)
    try:
        path = Path(start) / Path(text).expanduser()
        encoded = os.fsencode(str(path))
    except RuntimeError:
        raise UserError(f"{shown(text)}: there is no home folder of such a user") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{shown(text)}: no path holds {error.object[error.start]!r}, half of a character") from None
    if b"\0" in encoded:
        raise UserError(f"{shown(text)}: no path holds a zero byte")
    longest = max(map(len, encoded.split(os.fsencode(os.sep))))
    if longest > LONGEST_NAME:
        raise UserError(f"{shown(text)}: a name of {longest:,} bytes, and a file system takes {LONGEST_NAME}")
    if len(encoded) > LONGEST_PATH:
        raise UserError(f"{shown(text)}: a path of {len(encoded):,} bytes, and a file system takes {LONGEST_PATH:,}")
    return path


def whole_name(base: str) -> str:
    """How files name a base wherever they are read: one that lies here by its whole path, any other as it was named."""
    path = user_path(base)
    return str(path.absolute()) if base != "nano" and path.exists() else base


def is_inside(name: str) -> bool:
    """Whether a path, as somebody's file may name it, stays in the folder that it starts from."""
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def inside(folder: Path, name: str, named_by: Path) -> Path:
    """The path `name` in a folder, as the file `named_by` says it.

    Raises:
        UserError: it leads out of the folder.
    """
    if not is_inside(name):
        raise UserError(f"{named_by}: {shown(name)} is no path in the folder {folder}")
    return folder / name


def folder_names(tasks: Sequence[str]) -> list[str]:
    """A folder's name for each task: the task's own where a file system and a command line take it, and where it is not
    one of something that lies aside."""
    taken: list[str] = []
    for task in tasks:
        plain = name = re.sub(r"[^\w.-]+", "_", task, flags=re.ASCII).strip(".") or "task"
        plain = name = re.sub(rf"\.(?=({UNFINISHED}|{REPLACED})$)", "_", plain)
        number = 1
        while name.lower() in map(str.lower, taken):
            number += 1
            name = f"{plain}-{number}"
        taken.append(name)
    return taken
