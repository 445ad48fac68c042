"""What a task's examples are, as one short text: equal where they are equal, and another where anything in them is."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from loraweave.tasks.examples import Example


def content_hash(examples: Iterable[Example]) -> str:
    """A hash of examples and their order: of every field of each, and so of all that training can see of them.

    It is the same in every process and on every machine, and knows nothing of tokenizers and lengths, nor of where an
    example comes from. The order counts, for the draws of a run follow it; so does the order of a message's keys, for a
    chat template may write them out.

    Args:
        examples: of one task, in the order in which they are trained on.

    Returns:
        64 hexadecimal digits, SHA-256.
    """
    digest = hashlib.sha256()
    for example in examples:
        values = [getattr(example, field.name) for field in dataclasses.fields(example) if field.name != "place"]
        # A line each: JSON has no line break, so no two lists of examples come out alike. Parquet has dates and bytes.
        digest.update(json.dumps(values, default=_named).encode("ascii") + b"\n")
    return digest.hexdigest()


def _named(value: object) -> list[str]:
    return [type(value).__name__, repr(value)]
