"""Reads a local JSON Lines, JSON, CSV or Parquet file and remembers where each row stands, for errors to say it."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, nearest

SUFFIXES = (".jsonl", ".json", ".parquet")
SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class FileRows:
    """The rows of one file. `numbers` counts from 1: lines of a JSON Lines file, else entries."""

    path: Path
    rows: list[dict[str, Any]]
    numbers: list[int]
    unit: str

    def place(self, index: int) -> str:
        """Where row `index` stands, for a message."""
        return f"{self.path}, {self.unit} {self.numbers[index]}"


def existing(path: Path, what: str = "file") -> Path:
    """`path`, if a file is there; else a `UserError` with the nearest name in its folder."""
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path} is a folder; a {what} is wanted")
    hint = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
    missing = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
    raise UserError(f"no such {what}: {path}{missing}{hint}")


def read_rows(path: Path) -> FileRows:
    """Read a `.jsonl`, `.json` (an array, or JSON Lines under that name), `.parquet`, `.csv` or `.tsv` file.

    A byte-order mark, Windows line ends and blank lines are fine. An empty cell of a table is None.

    Raises:
        UserError: the file is missing, empty, not UTF-8, a line of it is not a JSON object, or a row of a table has
            more or fewer cells than its header.
    """
    existing(path)
    if path.suffix == ".parquet":
        found = _read_parquet(path)
    elif path.suffix in SEPARATORS:
        found = _read_table(_read_text(path), path)
    else:
        text = _read_text(path)
        array = _json_array(text, path) if path.suffix == ".json" else None
        found = array if array is not None else _read_lines(text, path)
    if not found.rows:
        raise UserError(f"{path} is empty; one example per line is wanted")
    return found


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # -sig: drops a byte-order mark, which editors on Windows write
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds a zero byte, so this is a binary file and no text")
    return text


def _read_lines(text: str, path: Path) -> FileRows:
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would split inside strings (U+2028)
        if not line.strip():
            continue
        row = _parsed(line, f"{path}, line {number}")
        _check_characters(line, row, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: a JSON object is wanted, such as "
                f'{{"prompt": "...", "completion": "..."}}, not {type(row).__name__}'
            )
        rows.append(row)
        numbers.append(number)
    return FileRows(path, rows, numbers, "line")


def _parsed(text: str, place: str) -> Any:
    """The JSON value in a text, which holds no number that is none.

    Raises:
        UserError: it is no JSON, nested deeper than Python reads, or holds NaN, infinity or a number without end.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise UserError(f"{place}{line}: not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{place}: not JSON (nested too deeply)") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{place}: not JSON ({str(error).partition(';')[0]})") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON; write null or leave the field out")


def _check_characters(source: str, value: Any, place: str) -> None:
    """JSON may escape half of a surrogate pair, which is no character: neither a tokenizer nor a file takes it."""
    if "\\ud" not in source and "\\uD" not in source:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: holds {error.object[error.start]!r}, half of a character; write the whole") from None


def _json_array(text: str, path: Path) -> FileRows | None:
    """The rows of a JSON array of objects; None when the file is JSON Lines after all."""
    if not text.lstrip().startswith("["):
        return None
    items = _parsed(text, str(path))
    for number, item in enumerate(items, start=1):
        _check_characters(text, item, f"{path}, entry {number}")
        if not isinstance(item, dict):
            raise UserError(f"{path}, entry {number}: a JSON object is wanted, not {type(item).__name__}")
    return FileRows(path, items, list(range(1, len(items) + 1)), "entry")


def _read_parquet(path: Path) -> FileRows:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    return FileRows(path, rows, list(range(1, len(rows) + 1)), "row")


def _read_table(text: str, path: Path) -> FileRows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=SEPARATORS[path.suffix], strict=True)
    rows, numbers, start = [], [], 1
    try:
        for cells in reader:
            if any(cells):
                rows.append(cells)
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not a row of a table ({error})") from None
    if not rows:
        return FileRows(path, [], [], "line")
    header, *rows = rows
    for name in header:
        if not name.strip() or header.count(name) > 1:
            said = f"{name!r} twice" if name.strip() else "a column without a name"
            raise UserError(f"{path}, line {numbers[0]}: the header has {said}")
    for cells, number in zip(rows, numbers[1:], strict=True):
        if len(cells) != len(header):
            raise UserError(f"{path}, line {number}: {len(cells)} cells, and the header has {len(header)}")
    columns = [_typed([cells[index] for cells in rows]) for index in range(len(header))]
    return FileRows(
        path, [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)], numbers[1:], "line"
    )


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
