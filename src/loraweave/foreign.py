"""Private names of other libraries, asked for by name: where one is gone the message says which, and what to do.

`tests/test_contract.py` lists all that this package stands on; `pyproject.toml` bounds the versions that have them.
"""

import re
import warnings
from importlib import metadata
from typing import Any

from loraweave.errors import Notice, UserError


def private(owner: Any, name: str, purpose: str) -> Any:
    """`owner.name`.

    Args:
        owner: a module or class of another library.
        name: of its attribute.
        purpose: what this package needs it for, for the message.

    Raises:
        UserError: it is not there; says which, in which version, and which versions have it.
    """
    found = getattr(owner, name, None)
    if found is None:
        inside = getattr(owner, "__module__", owner.__name__)
        place = owner.__name__ if inside == owner.__name__ else f"{inside}.{owner.__name__}"
        library = place.split(".")[0]
        raise UserError(
            f"{library} {_version(library)} has no {place}.{name}, which loraweave needs for {purpose}: "
            f"pip install '{_asked_for(library)}', or upgrade loraweave"
        )
    return found


def private_or_warn(owner: Any, name: str, purpose: str) -> Any:
    """`owner.name`, or None and a warning with what `private` would raise: for what all else works without."""
    try:
        return private(owner, name, purpose)
    except UserError as reason:
        warnings.warn(str(reason), Notice, stacklevel=2)
        return None


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "as installed"


def _asked_for(library: str) -> str:
    """What this package's own requirements say of a library: its name and the versions."""
    try:
        asked = metadata.requires("loraweave") or []
    except metadata.PackageNotFoundError:
        asked = []
    pattern = re.compile(rf"{re.escape(library).replace('_', '[-_]')}(?![\w.-])", re.IGNORECASE)
    return next((one for one in asked if pattern.match(one)), library)
