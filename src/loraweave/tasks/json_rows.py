"""Reads JSON Lines and JSON: an array of objects, one object, or an object that holds the array."""

import json
from pathlib import Path
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.rows import BadRows, FileRows, Values

LINES = {".jsonl", ".ndjson"}
OF_A_ROW = frozenset("messages conversations conversation tools prompt completion history chosen rejected".split())
"""Keys under which a row itself may hold a list of objects."""


def read_json(text: str, source: str, bad: BadRows) -> FileRows:
    """The rows of a text that is JSON or JSON Lines.

    Args:
        text: of the file.
        source: its path, for messages.
        bad: takes lines and entries that are no rows.

    Raises:
        UserError: it is an array that does not parse, or an object that holds several lists of rows.
    """
    start = text.lstrip()[:1]
    if start == "[":
        return _entries(_parsed(text, source), text, source, bad)
    if start == "{" and (whole := _one_object(text, source)) is not None:
        return _of_object(whole, text, source, bad)
    return _lines(text, source, bad)


def _lines(text: str, source: str, bad: BadRows) -> FileRows:
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would split inside strings (U+2028)
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            row = _parsed(line, place)
            _check_row(row, line, place)
        except UserError as error:
            bad.add(error, source, number, line)
            continue
        rows.append(row)
        numbers.append(number)
    return FileRows(source, rows, numbers, "line", "JSON Lines")


def _entries(items: Any, text: str, source: str, bad: BadRows) -> FileRows:
    rows, numbers = [], []
    for number, item in enumerate(items, start=1):
        try:
            _check_row(item, text, f"{source}, entry {number}")
        except UserError as error:
            bad.add(error, source, number, item)
            continue
        rows.append(item)
        numbers.append(number)
    return FileRows(source, rows, numbers, "entry", "JSON")


def _one_object(text: str, source: str) -> Values | None:
    """The object that the whole text is; None where it is JSON Lines."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = text.strip().split("\n")
        extra = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        if extra or len(lines) == 1 or any(map(_is_object, lines)):
            return None
    inner = text.strip()
    if "\n" not in inner:
        return dict(_parsed(inner, f"{source}, line {_first_line(text)}"))
    return dict(_parsed(text, source))


def _first_line(text: str) -> int:
    """The line, from 1, in which what stands in a text begins."""
    return 1 + text[: len(text) - len(text.lstrip())].count("\n")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _of_object(whole: Values, text: str, source: str, bad: BadRows) -> FileRows:
    lists = [key for key, value in whole.items() if _is_rows(value) and key not in OF_A_ROW]
    if len(whole) > 1 and LINES & set(Path(source).suffixes) and "\n" not in text.strip():
        lists = []  # the one row of a file of lines
    if len(lists) > 1:
        raise UserError(
            f"{source}: an object that holds several lists of rows ({', '.join(map(repr, lists))}): "
            "save each as a file of its own"
        )
    if lists:
        return _entries(whole[lists[0]], text, source, bad)
    if len(whole) > 1 and all(isinstance(value, (list, dict)) for value in whole.values()):
        sizes = {len(value) for value in whole.values()}
        if len(sizes) == 1 and not OF_A_ROW & set(whole):
            raise UserError(
                f"{source}: an object of columns; a row is wanted for each example (in pandas: "
                'to_json(..., orient="records", lines=True))'
            )
    _check_characters(text, whole, source)
    return FileRows(source, [whole], [_first_line(text)], "line", "JSON")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _check_row(row: Any, source: str, place: str) -> None:
    """Raise `UserError` for what is no object, or holds what is no text."""
    _check_characters(source, row, place)
    if not isinstance(row, dict):
        raise UserError(
            f"{place}: a JSON object is wanted, not {type(row).__name__}, such as "
            '{"prompt": "...", "completion": "..."}'
        )


def _parsed(text: str, place: str) -> Any:
    """The JSON value in a text, which holds no number that is none and no key twice.

    Raises:
        UserError: it is no JSON, nested deeper than Python reads, or holds NaN, infinity or a number without end.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise UserError(f"{place}{line}: not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{place}: not JSON (nested too deeply)") from None
    except _RepeatedKeyError as error:
        raise UserError(f"{place}: has the key {error.args[0]!r} twice in one object") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{place}: not JSON ({str(error).partition(';')[0]})") from None


class _RepeatedKeyError(ValueError):
    """Carries a key that stands twice in an object: JSON readers take the last, and lose the first without a word."""


def _object(pairs: list[tuple[str, Any]]) -> Values:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return made


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
