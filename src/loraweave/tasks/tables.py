"""Reads tables of text: CSV and TSV, cells quoted or not, with the line of the file in which each row starts."""

import csv
import io
import re
from typing import Any, Literal

from loraweave.errors import UserError
from loraweave.tasks.rows import BadRows, FileRows

SEPARATORS = {".csv": ",", ".tsv": "\t"}
INSTEAD = (";", "\t", "|")
"""What else separates the cells of files called .csv: spreadsheets write semicolons in many countries."""
LONGEST_CELL = 2**31 - 1  # of Python's reader, whose own limit is 128 KB; the least that a C long holds everywhere


def read_table(text: str, source: str, separator: str, bad: BadRows) -> FileRows:
    """The rows of a table. A cell is a number only where it prints as it was written, and an empty one is None.

    Args:
        text: of the file.
        source: its path, for messages.
        separator: between cells. A header of one cell that holds another common separator is taken to be parted by it.
        bad: takes rows with more or fewer cells than the header.

    Raises:
        UserError: a quote that is never closed, or a header with a name twice or with none.
    """
    kind, notes = {",": "CSV", "\t": "TSV"}[separator], []
    if told := re.match(r"sep=([,;\t|])(?=[\r\n])", text):  # a line for Excel
        separator, text = told[1], text[told.end() :]
    head = text.lstrip("\r\n").partition("\n")[0]
    if separator not in head and (other := next((mark for mark in INSTEAD if mark in head), separator)) != separator:
        separator = other
        notes.append(f"the cells are separated by {separator!r}")
    plain = kind == "TSV" and '"' in text and _has_plain_quotes(text, separator)
    if plain:
        notes.append("every line is a row, so quotes are taken as they stand")
    spaced = not plain and _has_spaced_quotes(text, separator)
    if spaced:
        notes.append("quotes stand behind spaces, and spaces behind separators are no part of the cells")
    rows, numbers = _cells(text, source, separator, csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, spaced)
    if not rows:
        return FileRows(source, [], [], "line", kind)
    header = [name.strip() for name in rows[0]]
    trailing = False
    while _without_last_cells(rows, header):  # spreadsheets keep several columns that were emptied
        trailing = True
    if trailing:
        notes.append("lines end in a separator with nothing behind it, which begins no cell")
    written = list(header)
    if header[0] == "" and "index" not in header[1:]:
        header[0] = "index"
        notes.append("the first column has no name, as pandas writes its row numbers, and is called 'index'")
    for name in header:
        if not name or header.count(name) > 1:
            said = f"{name!r} twice" if name else "a column without a name"
            raise UserError(f"{source}, line {numbers[0]}: the header has {said}")
    whole, places = [], []
    repeated = 0
    for cells, number in zip(rows[1:], numbers[1:], strict=True):
        if [cell.strip(" \ufeff") for cell in cells] == written:  # of files that were joined: it would be a label more
            repeated += 1
        elif len(cells) == len(header):
            whole.append(cells)
            places.append(number)
        else:
            said = f"{source}, line {number}: {len(cells)} cells, and the header has {len(header)}"
            bad.add(UserError(said), source, number, cells)
    if repeated:
        notes.append(f"the header stands there again, {'once' if repeated == 1 else f'{repeated:,} times'}: no row")
    columns = [_typed([cells[index] for cells in whole]) for index in range(len(header))]
    made = [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)]
    return FileRows(source, made, places, "line", kind, notes=notes)


def _without_last_cells(rows: list[list[str]], header: list[str]) -> bool:
    """Take away the empty cell behind the separator that some programs put at the end of each line; whether any was."""
    if len(header) > 1 and not header[-1] and all(cells[len(header) - 1 :] in ([""], []) for cells in rows[1:]):
        header.pop()
    found = False
    for cells in rows[1:]:
        if len(cells) == len(header) + 1 and not cells[-1]:
            cells.pop()
            found = True
    return found


def _cells(
    text: str, source: str, separator: str, quoting: Literal[0, 3], spaced: bool = False
) -> tuple[list[list[str]], list[int]]:
    """The rows of a table that are not blank, and the line in which each begins; `spaced`: behind a separator spaces do
    not count."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, quoting=quoting, skipinitialspace=spaced
    )
    rows, numbers, start = [], [], 1
    try:
        for cells in reader:
            if any(cells):
                rows.append(cells)
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{source}, line {start}: not a row of a table ({error})") from None
    return rows, numbers


def _has_plain_quotes(text: str, separator: str) -> bool:
    """Whether quotes in a table are part of its texts: many programs write tabs between cells and quote nothing.

    They are where each line has as many cells as the first, and rows of quoted cells cannot be read, or are fewer: a
    quote that opens a text has run on over other rows.
    """
    lines, _ = _cells(text, "", separator, csv.QUOTE_NONE)
    if len({len(cells) for cells in lines}) != 1:
        return False
    try:
        return len(_cells(text, "", separator, csv.QUOTE_MINIMAL)[0]) < len(lines)
    except UserError:
        return True


def _has_spaced_quotes(text: str, separator: str) -> bool:
    """Whether all quotes that follow a separator and a space hold a cell, to which no space belongs: else the quotes
    would be text, and a separator between them would end the cell."""
    mark = re.escape(separator)
    opened = len(re.findall(f'{mark} +"', text))
    return 0 < opened == len(re.findall(f'{mark} +"(?:[^"]|"")*" *(?={mark}|\r|\n|\\Z)', text))


def _typed(cells: list[str]) -> list[Any]:
    """The cells of a column as numbers, if all of them look the same when they are printed again: 7 does, 007 does not,
    and a 7 beside an empty cell does not become 7.0. Empty cells are None."""
    for kind in (int, float):
        try:
            values = [kind(cell) if cell else None for cell in cells]
        except ValueError:
            continue
        fit = all(abs(value) < 2**63 for value in values if kind is int and value is not None)
        if fit and all(str(value) == cell for value, cell in zip(values, cells, strict=True) if cell):
            return values
    return [cell or None for cell in cells]
