"""Rows of data with the place of each, and what becomes of rows that cannot be used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from loraweave.errors import UserError
from loraweave.files import finite

Values = dict[str, Any]
"""A row: what stands in each column."""


def plain_values(content: Any) -> Any:
    """A row as JSON has it: dates and bytes, which Parquet has, are text, and a number that is none is null."""
    return finite(json.loads(json.dumps(content, default=str)))


class Row(NamedTuple):
    """A row with its place for people; `source`, `number` and `filled` as of `FileRows`."""

    values: Values
    place: str
    source: str = ""
    number: int = 0
    filled: bool = False


@dataclass(frozen=True)
class FileRows:
    """The rows of one file, or of one split of a data set.

    Attributes:
        source: the file's path, or the data set's name and split.
        rows: as they stand there.
        numbers: of each row, from 1: lines of a text file, else entries or rows.
        unit: what `numbers` count.
        kind: of file, for people.
        filled: the file format gives all rows the same fields, so that what is null in one may never have been written.
        label_names: for columns of numbers that stand for names (`ClassLabel`), the names, in the order of the numbers.
        notes: what had to be guessed to read it.
    """

    source: str
    rows: list[Values]
    numbers: list[int]
    unit: str
    kind: str
    filled: bool = False
    label_names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def place(self, index: int) -> str:
        """Where row `index` stands, for a message."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"


def numbered_alike(part: FileRows, names: Mapping[str, list[str]]) -> FileRows:
    """A part in which the number of a label stands for the name that it has elsewhere: data sets that were saved one by
    one may count the same labels in different ways, each as its `label_names` say.

    Args:
        part: as it was read.
        names: by column, in the order of the numbers that shall stand for them. Where a name of the part is not among
            them, it is put into the place of its number.
    """
    own = {column: known for column, known in part.label_names.items() if names.get(column, known) != known}
    new: dict[str, list[Any]] = {}
    for column, known in own.items():
        new[column] = [names[column].index(name) if name in names[column] else name for name in known]
    if not new:
        return part

    def renumbered(column: str, value: Any) -> Any:
        is_known = column in new and type(value) is int and 0 <= value < len(new[column])
        return new[column][value] if is_known else value

    rows = [{column: renumbered(column, value) for column, value in row.items()} for row in part.rows]
    return replace(part, rows=rows, label_names={**part.label_names, **{column: names[column] for column in own}})


class BadRow(NamedTuple):
    """A row that cannot be used, or something that is wrong with all of a source.

    Attributes:
        message: a line that says where it stands, what is wrong, and what would be right.
        source, number: as of `FileRows`; 0 for what is wrong with all rows.
        content: the row, or the text of it that could not be read; None for what is wrong with all rows.
    """

    message: str
    source: str
    number: int
    content: Any


class BadRows:
    """What becomes of rows that cannot be used: the first is an error, or all of them are kept here.

    Args:
        keep: keep them. A file that cannot be read at all is an error nevertheless.

    Attributes:
        found: in the order in which they were met.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self.found: list[BadRow] = []

    def add(self, error: UserError, source: str, number: int, content: Any) -> None:
        """Take note of one.

        Args:
            error: with the row's place.
            source, number, content: as of `BadRow`.

        Raises:
            UserError: the same, unless they are kept.
        """
        if not self.keep:
            raise error
        self.found.append(BadRow(str(error), source, number, content))
