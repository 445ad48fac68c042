"""How much a template may do: steps, time and sizes, so that somebody else's cannot hang or fill the memory."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2.runtime import Undefined
from jinja2.sandbox import SecurityError
from jinja2.utils import Namespace

STEPS = 2_000_000
"""Turns of loops, calls and filters of one rendering."""

SECONDS = 3.0
"""Processor time of one rendering: other programs on the machine do not count."""

SIZE = 10_000_000
"""Characters of one text, and of all texts in one list."""

ELEMENTS = 1_000_000
"""Of one list, with those of the lists in it."""

MADE = 500_000_000
"""Characters of all texts that one rendering makes on its way."""

BITS = 100_000
"""Of a whole number."""

_LAID_OUT = frozenset("center ljust rjust zfill expandtabs indent wordwrap batch slice round to_bytes tojson".split())
_WIDTH = re.compile(r"%[-+ #0]*(\d{5,}|\*)|%[-+ #0]*\d*\.(\d{5,}|\*)")


class TemplateLimitError(SecurityError):
    """A template does more than any prompt needs."""


class Budget:
    """What one rendering has used up."""

    def __init__(self) -> None:
        self.steps = 0
        self.made = 0
        self._until: float | None = None

    def step(self) -> None:
        """One more turn of a loop, call or filter.

        Raises:
            TemplateLimitError: too many, or they take too long.
        """
        self.steps += 1
        if self.steps > STEPS:
            raise TemplateLimitError(f"it takes more than {STEPS:,} steps")
        if self.steps % 16 == 1:
            now = time.thread_time()
            self._until = self._until or now + SECONDS
            if now > self._until:
                raise TemplateLimitError(f"it computes for more than {SECONDS:g} seconds")

    def made_of(self, value: Any) -> Any:
        """`value`, something that the template made: checked, and counted where it is a text.

        Raises:
            TemplateLimitError: it is too long, or all of them together are.
        """
        if isinstance(value, (str, bytes)):
            self.made += len(value)
            if self.made > MADE:
                raise TemplateLimitError(f"it makes texts of more than {MADE:,} characters together")
        return checked(value)


def check_size(characters: int) -> None:
    """Raise TemplateLimitError for a text longer than any prompt."""
    if characters > SIZE:
        raise TemplateLimitError(f"it makes a text of more than {SIZE:,} characters")


def checked(value: Any) -> Any:
    """`value`, whose size as printed is known to be bounded: lists in lists can be far longer than they look.

    Raises:
        TemplateLimitError: it is too long.
    """
    if isinstance(value, (str, bytes)):
        check_size(len(value))
    elif isinstance(value, (list, tuple, set, frozenset, dict, Namespace)):
        seen, size, left = 0, 0, [value]
        while left:
            one = left.pop()
            seen += 1
            if isinstance(one, (str, bytes)):
                size += len(one)
            elif isinstance(one, (list, tuple, set, frozenset)):
                left += one
            elif isinstance(one, (Mapping, Namespace)):
                pairs: Mapping[Any, Any] = one._Namespace__attrs if isinstance(one, Namespace) else one  # type: ignore
                left += [*pairs.keys(), *pairs.values()]
            check_size(size)
            _check_count(seen + len(left))
    return value


def joined(parts: Iterable[Any]) -> str:
    """`"".join(parts)`, stopped where it gets too long."""
    kept, size = [], 0
    for part in parts:
        size += len(part)
        check_size(size)
        kept.append(part)
    return "".join(kept)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateLimitError if `left operator right` would be huge: seen before it is worked out."""
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "+" and _sized(left) and _sized(right):
        _check_length(left, len(left) + len(right))
    elif operator == "*" and whole:
        _check_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if _sized(many) and isinstance(times, int):
                _check_length(many, len(many) * times)
    elif operator == "**" and whole:
        _check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, (str, bytes)):
        check_format(left)


def check_growth(name: str, value: Any, arguments: Sequence[Any]) -> None:
    """Raise TemplateLimitError if a filter or a method of a text would give something huge.

    Args:
        name: of the filter or the method.
        value: what it is applied to.
        arguments: without names.
    """
    if name in _LAID_OUT:
        pieces = 1 + value.count("\n") + value.count("\t") if isinstance(value, str) else 1
        pieces = len(value) + 1 if name == "tojson" and _sized(value) else pieces
        _check_length(value, pieces * max((abs(a) for a in arguments if isinstance(a, int)), default=0))
    elif name == "replace" and isinstance(value, (str, bytes)) and len(arguments) >= 2:
        old, new = arguments[:2]
        if isinstance(old, type(value)) and isinstance(new, type(value)):
            check_size(len(value) + value.count(old) * len(new))  # type: ignore[arg-type]
    elif name == "join" and isinstance(value, str) and arguments and _sized(arguments[0]):  # the method
        check_size(len(value) * len(arguments[0]) + sum(len(a) for a in arguments[0] if _sized(a)))
    elif name == "join" and _sized(value):  # the filter
        between = len(arguments[0]) if arguments and _sized(arguments[0]) else 0
        check_size(between * len(value) + sum(len(a) for a in value if _sized(a)))
    elif name == "format" and isinstance(value, str):
        check_format(value)


def check_format(text: str | bytes) -> None:
    """Raise TemplateLimitError for a `%` format that pads to more places than any prompt has."""
    if _WIDTH.search(text if isinstance(text, str) else text.decode("latin-1")):
        raise TemplateLimitError("it pads a text to 10,000 places or more")


def _check_count(elements: int) -> None:
    if elements > ELEMENTS:
        raise TemplateLimitError(f"it makes a list of more than {ELEMENTS:,} elements")


def _check_length(like: Any, length: int) -> None:
    (check_size if isinstance(like, (str, bytes)) else _check_count)(length)


def _check_bits(bits: int) -> None:
    if bits > BITS:
        raise TemplateLimitError("it computes with numbers of tens of thousands of digits")


def _sized(value: Any) -> bool:
    return isinstance(value, (str, bytes, list, tuple, dict, set, range)) and not isinstance(value, Undefined)
