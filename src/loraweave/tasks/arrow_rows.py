"""Reads Parquet, Arrow and what `datasets` has saved or serves, as plain values: no feature of it is decoded."""

import json
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, in_a_line
from loraweave.tasks.rows import FileRows


def read_parquet(path: Path, content: bytes | None = None) -> FileRows:
    """The rows of a Parquet file.

    Args:
        path: of the file.
        content: of the file, where it had to be unpacked.

    Raises:
        UserError: it is no Parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path if content is None else pyarrow.BufferReader(content)).read()
        return of_table(table, str(path), "Parquet")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file ({in_a_line(error)})") from None


def read_arrow(path: Path, content: bytes | None = None) -> FileRows:
    """The rows of an Arrow file, of either of its two forms; arguments and errors as of `read_parquet`."""
    import pyarrow

    try:
        data = path.read_bytes() if content is None else content
        opened = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
        return of_table(opened(pyarrow.BufferReader(data)).read_all(), str(path), "Arrow")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not an Arrow file ({in_a_line(error)})") from None


def of_table(table: Any, source: str, kind: str) -> FileRows:
    """The rows of a `pyarrow.Table`, with the names of its labels where its schema has them (`ClassLabel`)."""
    rows = table.to_pylist()
    for field in table.schema:
        if "arrow.json" in str(field.type):  # what `datasets` makes of values of several kinds, as text
            for row in rows:
                row[field.name] = _read_json(row[field.name], field.type)
    numbers = list(range(1, len(rows) + 1))
    return FileRows(source, rows, numbers, "row", kind, filled=True, label_names=_label_names(table.schema))


def _read_json(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, with what is JSON in it as plain values."""
    import pyarrow

    if value is None:
        return None
    if isinstance(kind, pyarrow.JsonType):
        return json.loads(value)
    if pyarrow.types.is_struct(kind):
        return {field.name: _read_json(value[field.name], field.type) for field in kind}
    is_list = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
    return [_read_json(each, kind.value_type) for each in value] if any(of(kind) for of in is_list) else value


def _label_names(schema: Any) -> dict[str, list[str]]:
    """The names that `datasets` writes into a schema, read as values: its own reader makes objects of them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        labels = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {column: list(map(str, names)) for column, names in labels.items() if isinstance(names, list)}
