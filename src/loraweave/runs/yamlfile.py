"""Read YAML so that every complaint can name the file and the line.

Differs from plain PyYAML in two ways: `1e-4` is a number (YAML 1.1 wants `1.0e-4` and would make it a string), and a
key that is given twice is refused instead of the last one winning.
"""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from loraweave.errors import UserError, in_a_line, shown
from loraweave.files import read_file
from loraweave.tasks.bounds import TemplateLimitError, checked


class NotYamlError(Exception):
    """A text that is no YAML.

    Attributes:
        reason: in a line.
        line: counted from 1; None where the whole of it is wrong.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader with scientific notation, without duplicate keys, and with a place for whatever it cannot make."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError) as error:  # a number of 5,000 digits, the 31st of June, !!int x
            kind = node.tag.rpartition(":")[2]
            reason = f"{shown(node.value)} cannot be read as {kind} ({in_a_line(error)})"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, type(None))):
                reason = f"a key is a word or a number, not {shown(key)}"
                raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """One value as YAML reads it: `1e-4` -> 0.0001, `[a, b]` -> a list.

    Raises:
        NotYamlError: it does not parse, or it stands for far more than it looks.
    """
    try:
        return checked(yaml.load(text, _Loader))
    except TemplateLimitError:
        raise NotYamlError("its aliases (*name) stand for millions of values") from None
    except RecursionError:
        raise NotYamlError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or in_a_line(error)
        raise NotYamlError(reason, mark.line + 1 if mark else None) from error


def read_yaml(path: Path) -> tuple[dict[str, Any], "Lines"]:
    """The mapping in a YAML file, and where its keys stand.

    Raises:
        UserError: no such file, text that does not parse (with its line), or something else than a mapping.
    """
    try:
        text = read_file(path).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 text; save the file as UTF-8") from error
    try:
        values = parse_value(text)
    except NotYamlError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise UserError(f"{where}: not valid YAML: {error.reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a run file is a mapping of keys to values, got {type(values).__name__}")
    return values, Lines(path, yaml.compose(text, _Loader))


class Lines:
    """Where in a file each key stands."""

    def __init__(self, path: Path, root: yaml.Node | None) -> None:
        self.path = path
        self.root = root

    def of(self, keys: Sequence[str | int]) -> str:
        """`file:line` of the value under `keys`, or of the nearest thing around it that is in the file.

        Where there is no text, the name alone.
        """
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
        return f"{self.path}:{line + 1}" if self.root is not None else str(self.path)
