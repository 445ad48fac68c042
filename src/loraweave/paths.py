"""Paths that people write, in files and on the command line: what cannot be one is said in a line."""

import os
from pathlib import Path

from loraweave.errors import UserError, shown

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that the usual file systems take."""


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
