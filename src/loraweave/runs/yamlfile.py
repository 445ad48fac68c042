"""Read YAML so that every complaint can name the file and the line.

Differs from plain PyYAML in two ways: `1e-4` is a number (YAML 1.1 wants `1.0e-4` and would make it a string), and a
key that is given twice is refused instead of the last one winning.
"""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from loraweave.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with scientific notation, and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """One value as YAML reads it: `1e-4` -> 0.0001, `[a, b]` -> a list. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> tuple[dict[str, Any], "Lines"]:
    """The mapping in a YAML file, and where its keys stand.

    Raises:
        UserError: no such file, text that does not parse (with its line), or something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        values = yaml.load(text, _Loader)
        root = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a run file is a mapping of keys to values, got {type(values).__name__}")
    return values, Lines(path, root)


class Lines:
    """Where in a file each key stands."""

    def __init__(self, path: Path, root: yaml.Node | None) -> None:
        self.path = path
        self.root = root

    def of(self, keys: Sequence[str | int]) -> str:
        """`file:line` of the value under `keys`, or of the nearest thing around it that is in the file."""
        node, line = self.root, 0
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                found = (node.value[key], node.value[key])
            else:
                found = None
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        return f"{self.path}:{line + 1}"
