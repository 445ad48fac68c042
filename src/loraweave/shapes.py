"""JSON that a command reads back: of the shape that it was written in, or refused with the key that is not."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loraweave.errors import UserError, shown
from loraweave.files import read_json, read_json_lines


def read_shaped(path: Path, kind: Any) -> dict[str, Any]:
    """What `files.write_json` wrote, compared with its shape.

    Args:
        path: of the file.
        kind: a `typing_extensions.TypedDict`; keys that it does not name may be there too.

    Raises:
        UserError: no such file, no JSON object, or a value of another kind; names its key.
    """
    content = read_json(path)
    check_shape(content, kind, str(path))
    return content


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, each numbers by their names, with step, seconds and tokens; none where there is no
    such file.

    Raises:
        UserError: a broken line, or one without these or with something else than numbers; names it.
    """
    lines = read_json_lines(path)
    for number, line in enumerate(lines, start=1):
        check_shape(line, dict[str, float | None], f"{path}, line {number}")
        for key in ("step", "seconds", "tokens"):
            if line.get(key) is None or (key == "step" and line[key] != int(line[key])):
                raise UserError(f"{path}, line {number}: a number is wanted for {key!r}")
    return lines


def check_shape(content: Any, kind: Any, where: str) -> None:
    """Raise UserError, with `where` it stands, for a value of another kind than was written there."""
    try:
        _adapter(kind).validate_json(json.dumps(content), strict=True)  # as JSON: a list stands for a tuple too
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"] if not str(part).endswith("]"))
        got = "" if problem["type"] == "missing" else f", got {shown(problem['input'])}"
        raise UserError(f"{where}: not as this version writes it: {key}: {problem['msg']}{got}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)
