"""Which of many parameters a quick run of the tests takes; the others are for `make test-long`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

TELLING = ("lora", "rlora", "mtllora", "own", "mtlora")
"""PEFT's own; a router and a frozen anchor; tensors for each task; a head for each task; an adapter beside a block."""


def few(values: Iterable[Any], quick: Collection[Any] = TELLING) -> list[Any]:
    """All of them, those that are not in `quick` marked as long."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.long) for value in values]
