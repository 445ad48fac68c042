"""API keys: who may ask."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from loraweave.errors import UserError

VARIABLE = "LORAWEAVE_API_KEYS"
"""Keys in the environment, with commas or white space between them."""
SHORTEST = 8


class Keys:
    """Keys, of which nothing but hashes is kept; with none of them everybody may ask.

    Args:
        keys: as they are sent.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._hashes = [_hashed(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def allow(self, authorization: bytes) -> bool:
        """Whether a header `Authorization: Bearer KEY` has one of the keys; takes as long whatever it has."""
        scheme, _, key = authorization.partition(b" ")
        hashed = _hashed(key.strip())
        found = [hmac.compare_digest(hashed, known) for known in self._hashes]
        return any(found) and scheme.lower() == b"bearer"


def read_keys(file: Path | None) -> Keys:
    """The keys of a file, one in each line, and those of the environment.

    Raises:
        UserError: the file cannot be read, it or the variable has none, or a key is short.
    """
    said = os.environ.get(VARIABLE)
    keys = (said or "").replace(",", " ").split()
    if said is not None and not keys:
        raise UserError(f"{VARIABLE}: is set and holds no key; unset it where none are wanted")
    where = [VARIABLE] * len(keys)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: the keys cannot be read: {error}") from None
        given = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not given:
            raise UserError(f"{file}: no key in it; one in each line is wanted")
        keys += given
        where += [str(file)] * len(given)
    for key, place in zip(keys, where, strict=True):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"{place}: a key has fewer than {SHORTEST} letters, or something else in it than ASCII's")
    return Keys(keys)


def _hashed(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
