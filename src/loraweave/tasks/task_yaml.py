"""Reads a task file in lm-eval's format as data: functions that it names run only where the user trusts them.

Follows lm-eval's own reader (`include:`, `!function`), which imports whatever a file names while it reads it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import loraweave
from loraweave.errors import UserError, first_line, nearest
from loraweave.files import read_file
from loraweave.tasks.bounds import TemplateLimitError, checked

LARGEST = 5_000_000  # bytes

TRUST = "read it, and if you trust it, add --trust-code (or `trust_code: true` to your own run file)"

_ACTING = ("sql", "spark", "generator", "iceberg", "pandas")
_ELSEWHERE = ("cache_dir", "download_config", "storage_options", "num_proc")


@dataclass(frozen=True)
class Code:
    """A function that a task file names: `!function module.name`, with the folder that it is looked for in."""

    spec: str
    folder: Path

    def __str__(self) -> str:
        module, _, name = self.spec.rpartition(".")
        file = self.folder / f"{module.replace('.', '/')}.py"
        return f"the function {name!r} of {file if file.is_file() else f'the module {module!r}'}"


def read_task_yaml(path: Path, trust_code: bool = False) -> dict[str, Any]:
    """The mapping in a task file, with what it includes.

    Args:
        path: of the file.
        trust_code: import the functions that it names. Those of lm-eval's own tasks are installed code, and always are.

    Raises:
        UserError: it does not parse or is no mapping; it includes what is not there or lies elsewhere; or it names a
            function and is not trusted.
    """
    config = _read(path, path.parent.resolve().parent, trust_code, ())
    try:
        checked(config)  # aliases of aliases are short in a file, and without end once they are written out
    except TemplateLimitError:
        raise UserError(f"{path}: its aliases (*name) stand for millions of values") from None
    return {key: _resolved(value, str(key), path, trust_code) for key, value in config.items()}


def data_of_task(path: Path) -> list[Path] | None:
    """The local files that a task's own YAML names for its data; None for a YAML that is no task. Nothing is run."""
    try:
        content = _parsed(path)
    except UserError:
        return None
    if not content.keys() & {"task", "group"} or not content.keys() & {
        "doc_to_text",
        "dataset_path",
        "include",
        "group",
    }:
        return None
    kwargs = content.get("dataset_kwargs")
    files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    named = [*files.values()] if isinstance(files, dict) else [files]
    return [path.parent / str(each) for some in named for each in (some if isinstance(some, list) else [some]) if each]


def names_in(path: Path) -> tuple[str | None, list[str]]:
    """What a task's own YAML calls it, and the tasks that a group's lists; neither for any other file."""
    try:
        said = _parsed(path).get("task")
    except UserError:
        return None, []
    if isinstance(said, str):
        return said, []
    listed = [one.get("task") if isinstance(one, dict) else one for one in (said if isinstance(said, list) else ())]
    return None, [name for name in listed if isinstance(name, str)]


def key_lines(path: Path) -> dict[str, int]:
    """The line of each key at the top of a YAML file; those of files that it includes are not among them."""
    root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    return {str(key.value): key.start_mark.line + 1 for key, _ in pairs}


def is_installed(path: Path) -> bool:
    """Whether a file came with lm-eval's tasks or with this package: installed code, like all that runs."""
    return any(path.resolve().is_relative_to(folder) for folder in _installed())


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, Path]:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).resolve().parent, Path(loraweave.__file__).resolve().parent


def _read(path: Path, allowed: Path, trust_code: bool, above: tuple[Path, ...]) -> dict[str, Any]:
    """One file over those that it includes, which lie under `allowed`; `above` are the files that include it."""
    content = _parsed(path)
    included = content.pop("include", [])
    included = [included] if isinstance(included, str) else included
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise UserError(f"{path}: 'include' must be the path of a task file, or a list of paths, not {included!r}")
    merged: dict[str, Any] = {}
    for name in included:
        try:
            other = (path.parent / Path(name).expanduser()).resolve()
            there = other.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a loop of links, an unknown ~user
            raise UserError(f"{path}: includes {name!r}, which is no path: {error}") from None
        if not (trust_code or other.is_relative_to(allowed) or is_installed(other)):
            raise UserError(
                f"{path}: includes {other}, which lies outside {allowed}: copy it there, or {TRUST.split(', ', 1)[1]}"
            )
        if not there:
            raise UserError(f"{path}: includes {other}, which is not there")
        if other in above or other == path.resolve():
            raise UserError(f"{path}: includes {other}, which includes it in turn")
        more = _read(other, allowed, trust_code, (*above, path.resolve()))
        merged |= {key: value for key, value in more.items() if key != "task_list"}
    return merged | content


def _parsed(path: Path) -> dict[str, Any]:
    loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
    loader.add_constructor("!function", lambda made, node: Code(str(made.construct_scalar(node)), path.parent))
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST // 1_000_000} MB, so this is no task file")
        content = yaml.load(read_file(path), loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not YAML: {first_line(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: not YAML: nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not YAML of a task: a mapping of keys to values is wanted, not {_kind(content)}")
    return content


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _resolved(value: Any, place: str, path: Path, trust_code: bool) -> Any:
    """`value` with the functions in the place of their names."""
    if isinstance(value, Code):
        return _function(value, place, path, trust_code)
    if isinstance(value, dict):
        return {key: _resolved(one, f"{place}.{key}", path, trust_code) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(one, place, path, trust_code) for one in value]
    return value


def _function(code: Code, place: str, path: Path, trust_code: bool) -> Any:
    from lm_eval.tasks._yaml_loader import _import_func_in_yml

    if not (trust_code or is_installed(code.folder)):
        raise UserError(f"{path}: {place} runs {code}: {TRUST}")
    try:
        return _import_func_in_yml(code.spec, code.folder)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(f"{path}: {place}: {first_line(error)}") from error


def check_trusted(config: dict[str, Any], path: Path) -> None:
    """Refuse what else in a task's configuration acts, beside functions.

    Raises:
        UserError: a metric of the library evaluate, which is code; a data set that is a query or a program; or an
            argument that lets data be written to a place of the file's choice.
    """
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in config.get("metric_list") or ():
        name = metric.get("metric") if isinstance(metric, dict) else None
        if isinstance(name, str) and metric.get("hf_evaluate"):
            raise UserError(f"{path}: the metric {name!r} of the library evaluate is code that runs: {TRUST}")
        if isinstance(name, str) and name not in METRIC_REGISTRY:
            raise UserError(
                f"{path}: lm-eval has no metric {name!r} at hand{nearest(name, METRIC_REGISTRY)}; one of the library "
                f"evaluate is code that runs: {TRUST}"
            )
    if config.get("dataset_path") in _ACTING:
        raise UserError(f"{path}: dataset_path {config['dataset_path']!r} does more than read a file: {TRUST}")
    kwargs = config.get("dataset_kwargs")
    for key in kwargs if isinstance(kwargs, dict) else ():
        if key in _ELSEWHERE:
            raise UserError(f"{path}: dataset_kwargs.{key} decides where data are written or asked for: {TRUST}")
