"""Local files as rows: which kinds there are, how each is opened, compressed or not, and decoded."""

import codecs
from pathlib import Path

from loraweave.errors import UserError, first_line, nearest
from loraweave.tasks.arrow_rows import read_arrow, read_parquet
from loraweave.tasks.json_rows import read_json
from loraweave.tasks.rows import BadRows, FileRows
from loraweave.tasks.tables import SEPARATORS, read_table
from loraweave.tasks.texts import read_text

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON_SUFFIXES, *SEPARATORS, ".parquet", ".arrow", ".txt")
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}
"""Suffixes of compressed files, and what fsspec, which `datasets` opens them with, calls each."""
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How files begin that are not UTF-8 and say so; the longer mark first, for the shorter begins it."""


def existing(path: Path, what: str = "file") -> Path:
    """`path`, if a file is there; else a `UserError` with the nearest name in its folder."""
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path} is a folder; a {what} is wanted")
    hint = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
    if (slashed := path.name.replace("\\", "/")) != path.name and (path.parent / slashed).is_file():
        hint = f", did you mean {slashed!r}?"
    missing = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
    raise UserError(f"no such {what}: {path}{missing}{hint}")


def parted(path: str | Path) -> tuple[str, str, str]:
    """A file's name without suffixes, the suffix of its kind, and the suffix that says how it is compressed."""
    name = Path(path).name
    packed = Path(name).suffix.lower()
    packed = packed if packed in COMPRESSED else ""
    inner = Path(name[: len(name) - len(packed)])
    return inner.stem, inner.suffix.lower(), packed


def is_data(path: str | Path) -> bool:
    """Whether a path is, by its name, of a kind that `read_rows` reads."""
    return parted(path)[1] in SUFFIXES


def read_rows(path: Path, bad: BadRows | None = None) -> FileRows:
    """Read a file of JSON Lines, JSON (an array, one object, or an object that holds the array), a table, Parquet,
    Arrow or plain text, compressed or not.

    A byte-order mark, Windows line ends and blank lines are fine. An empty cell of a table is None.

    Args:
        bad: takes the rows that cannot be read; the first is an error when None.

    Raises:
        UserError: the file is missing, empty, of an unknown kind or not what its name says; or, of a row: a line that
            is no JSON object, a row of a table with more or fewer cells than its header.
    """
    bad = BadRows() if bad is None else bad
    existing(path)
    _, suffix, packed = parted(path)
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: a data file ends in one of {', '.join(SUFFIXES)}, perhaps with .gz behind it")
    if suffix in (".parquet", ".arrow"):
        content = _content(path, packed) if packed else None
        found = (read_parquet if suffix == ".parquet" else read_arrow)(path, content)
    else:
        text = _decoded(_content(path, packed), path)
        if suffix in SEPARATORS:
            found = read_table(text, str(path), SEPARATORS[suffix], bad)
        elif suffix == ".txt":
            found = read_text(text, str(path))
        else:
            found = read_json(text, str(path), bad)
    if not found.rows and not bad.found:
        raise UserError(f"{path} is empty; at least one example is wanted")
    return found


def _content(path: Path, packed: str) -> bytes:
    """The bytes of a file, unpacked."""
    from fsspec.compression import compr

    name = COMPRESSED.get(packed)
    if name is not None and name not in compr:
        package = {"zstd": "zstandard"}.get(name, name)
        raise UserError(f"{path}: reading {packed} needs the package {package}: install it, or unpack the file")
    try:
        with path.open("rb") as file:
            return bytes(file.read() if name is None else compr[name](file, mode="rb").read())
    except Exception as error:  # each library that unpacks has errors of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        raise UserError(f"{path}: not a whole {packed} file ({first_line(error)})") from None


def _decoded(data: bytes, path: Path) -> str:
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8-sig")  # drops the mark
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise UserError(f"{path}: begins as {encoding.upper()} text does, and is none; save it as UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}, line {line}: holds a zero byte: a binary file, or UTF-16 without its mark; save it as UTF-8"
        )
    return text
