"""What is meant for the person at the keyboard: one exception, one warning, the hint that goes with a misspelt name."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80


_LONGEST = 1000


class UserError(ValueError):
    """Something the user gave is wrong. The message is one line: what, where, what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """


class ManyError(UserError):
    """Several things that the user gave are wrong. The message is that of the first.

    Args:
        problems: a line for each, at least one.

    Attributes:
        problems: the same.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems[0])

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


def problems_of(error: UserError) -> tuple[str, ...]:
    """All that is wrong, a line each."""
    return error.problems if isinstance(error, ManyError) else (str(error),)


def check_none(problems: Iterable[str]) -> None:
    """Raise ManyError with all of some problems, if there are any."""
    if found := tuple(problems):
        raise ManyError(found)


class Notice(UserWarning):
    """Something that works otherwise than one would think; one line. The command line prints it, unlike what libraries
    warn of."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` when a known name is close to `name`, else an empty string."""
    close = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """A value as Python writes it, cut to a line that a person reads, however much there is of it."""
    return _SHORT.repr(value)


def in_a_line(error: BaseException) -> str:
    """What an error of another library says, in one line, however much it is; its kind where it says nothing."""
    line = " ".join(str(error)[:_LONGEST].split())
    return line or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
