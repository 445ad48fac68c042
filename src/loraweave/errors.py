"""The one exception that is meant for the person at the keyboard, and the hint that goes with a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user gave is wrong. The message is one line: what, where, what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` when a known name is close to `name`, else an empty string."""
    close = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
