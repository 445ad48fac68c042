"""Finds lm-eval tasks by name or YAML file and builds them, with errors that a person can act on."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from loraweave.errors import ManyError, UserError, first_line, nearest
from loraweave.tasks.expressions import bound_expressions
from loraweave.tasks.files import existing
from loraweave.tasks.sandbox import reason_of, sandbox_tasks
from loraweave.tasks.task_yaml import check_trusted, key_lines, read_task_yaml

STRUCTURE_KEYS = {"task", "tag", "group", "task_list", "include", "class"}


@lru_cache(maxsize=1)
def task_manager() -> Any:
    """lm-eval's index of every task it ships: reads 14,000 YAML files, so some ten seconds the first time."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def folder_index(folder: Path) -> dict[str, Any]:
    """lm-eval's index of the task files in a folder: name -> entry. Files that define no task are not in it."""
    from lm_eval.tasks import TaskManager

    return dict(TaskManager(include_path=folder, include_defaults=False).task_index)


def named_tasks(name: str) -> list[Any]:
    """The lm-eval task of this name, or all tasks of the group or tag of this name.

    Raises:
        UserError: lm-eval has no such task (with the nearest name), or its data set is not at hand.
    """
    found = shipped_yaml(name)
    if found is not None:
        from lm_eval.tasks import TaskManager

        manager, wanted = TaskManager(include_defaults=False), str(found)
    else:
        manager, wanted = task_manager(), name
        if name not in manager.task_index:
            raise UserError(
                f"lm-eval has no task {name!r}{nearest(name, manager.all_tasks)}; a task is an lm-eval name, "
                "a task file (.yaml) or data (.jsonl, .csv, .parquet, ...)"
            )
    return _prepared(lambda: manager.load([wanted])["tasks"].values(), f"the lm-eval task {name!r}")


def yaml_tasks(path: Path, data_dir: Path | None, trust_code: bool = False) -> list[Any]:
    """The tasks of a YAML in lm-eval's format: one, or all members of a group.

    Args:
        path: of the file.
        data_dir: where its relative data files are looked for first.
        trust_code: run the functions that it names.

    Raises:
        UserError: the file is missing or does not parse, a key is unknown, the data are missing or unfit, or it names
            code and is not trusted.
    """
    existing(path, "task file")
    config = read_task_yaml(path, trust_code)
    if isinstance(config.get("task"), list):
        return _members(config, path, data_dir, trust_code)
    return _prepared(lambda: [_build(config, path, data_dir, trust_code)], str(path))


def _members(config: dict[str, Any], path: Path, data_dir: Path | None, trust_code: bool) -> list[Any]:
    """The tasks of a group: each a name, defined by a YAML in the group's folder or shipped with lm-eval."""
    beside = folder_index(path.parent)
    tasks = []
    for member in config["task"]:
        if not isinstance(member, str):
            raise UserError(f"{path}: a member of a group is the name of a task here, not {type(member).__name__}")
        entry = beside.get(member)
        local = entry is not None and entry.yaml_path not in (None, path)
        if entry is not None and local:
            tasks += yaml_tasks(entry.yaml_path, data_dir, trust_code)
        else:
            tasks += named_tasks(member)
    return tasks


def _build(config: dict[str, Any], path: Path, data_dir: Path | None, trust_code: bool) -> Any:
    from loraweave.tasks.local_data import GuardedTask, LocalTask, resolve_data

    check_keys(config, path)
    if not trust_code:
        check_trusted(config, path)
    local = resolve_data(config, path.parent, data_dir)
    metadata = config.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    config["metadata"] = metadata | {"config_source": str(path)}
    build = config.get("class") or (LocalTask if local else GuardedTask)
    config = {key: value for key, value in config.items() if key not in STRUCTURE_KEYS - {"task"}}
    return build(config=config)


def check_keys(config: dict[str, Any], path: Path) -> None:
    """Raise UserError where a task's file lacks what it must say, or says what nobody reads; it has all of it."""
    if problems := [*_problems(config)]:
        lines = key_lines(path)
        raise ManyError(f"{path}{f', line {lines[key]}' if key in lines else ''}: {what}" for key, what in problems)


def _problems(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the keys of a task's file: where, and what."""
    from lm_eval.api.registry import METRIC_REGISTRY
    from lm_eval.config.task import TaskConfig

    known = set(TaskConfig.__dataclass_fields__) | STRUCTURE_KEYS
    for key in config:
        if key not in known:
            yield str(key), f"unknown key {str(key)!r}{nearest(str(key), known)}"
    if "class" in config:
        if not callable(config["class"]):
            yield "class", f"'class' must be a !function that names a class, not {config['class']!r}"
        return
    if not isinstance(config.get("task"), str):
        yield "task", "lacks 'task', the task's name"
    for key in ("dataset_path", "doc_to_text", "doc_to_target"):
        if config.get(key) is None and not (config.get("custom_dataset") or config.get("use_prompt")):
            yield key, f"lacks {key!r}"
    for metric in config.get("metric_list") or ():
        name = metric.get("metric") if isinstance(metric, dict) else None
        # One that lm-eval does not ship may come from the library "evaluate", but not without its aggregation.
        by_itself = "aggregation" not in metric and config.get("process_results") is None
        if isinstance(name, str) and by_itself and name not in METRIC_REGISTRY:
            yield "metric_list", _no_metric(name)
    if config.get("test_split") is None and config.get("validation_split") is None:
        yield "test_split", "lacks 'test_split' (or 'validation_split'): which split the task is evaluated on"


def _prepared(build: Callable[[], Any], what: str) -> list[Any]:
    """Build tasks, say plainly why when that fails, and set them to prompts without solved examples."""
    sandbox_tasks()
    try:
        tasks = list(build())
    except UserError:
        raise
    except Exception as error:  # lm-eval, datasets and !function code raise what they like
        if is_missing_data(error):
            raise UserError(
                f"{what}: its data set must be downloaded once, and that fails here: {first_line(error)}"
            ) from error
        raise UserError(f"{what}: lm-eval cannot build it: {reason_of(error)}") from error
    for task in tasks:
        task.set_config("num_fewshot", 0)
        _check_metrics(task, what)
        bound_expressions(task, what)
    return tasks


def _check_metrics(task: Any, what: str) -> None:
    """lm-eval only logs that it does not know a metric, and the score would be missing after the training."""
    from lm_eval.api.task import ConfigurableTask

    own_scoring = type(task).process_results is not ConfigurableTask.process_results
    if own_scoring or task.config.process_results is not None:
        return
    for name, function in task._metric_fn_list.items():
        if function is None:
            raise UserError(f"{what}: {_no_metric(name)}")
        if not callable(task._aggregation_list.get(name)):
            raise UserError(f"{what}: lm-eval has no such aggregation as the metric {name!r} asks for")
        if not isinstance(task._higher_is_better.get(name), (bool, type(None))):
            raise UserError(f"{what}: higher_is_better of the metric {name!r} must be true or false")


def _no_metric(name: str) -> str:
    from lm_eval.api.registry import METRIC_REGISTRY

    return f"lm-eval has no metric {name!r} at hand{nearest(name, METRIC_REGISTRY)}"


def is_missing_data(error: Exception) -> bool:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    out_of_reach = isinstance(error, FileNotFoundError) and "://" in str(error)  # a file named by its address
    return out_of_reach or isinstance(
        error, (ConnectionError, OfflineModeIsEnabled, DatasetNotFoundError, HfHubHTTPError)
    )


@lru_cache(maxsize=256)
def shipped_yaml(name: str) -> Path | None:
    """The shipped YAML that defines a single task of this name, found without lm-eval's slow index."""
    import lm_eval.tasks

    pattern = re.compile(rb"^task:[ \t]*[\"']?" + re.escape(name.encode()) + rb"[\"']?[ \t\r]*(#.*)?$", re.MULTILINE)
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"), key=Path.as_posix):
        if pattern.search(path.read_bytes()):
            return path
    return None
