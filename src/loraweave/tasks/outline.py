"""Tasks as their configuration describes them, with nothing downloaded: loaded only where their data are at hand."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import huggingface_hub.constants

from loraweave.errors import UserError
from loraweave.paths import user_path
from loraweave.tasks import harness
from loraweave.tasks.files import parted
from loraweave.tasks.harness_task import HarnessTask
from loraweave.tasks.load import check_names, load_tasks
from loraweave.tasks.sources import YAML_SUFFIXES, is_source
from loraweave.tasks.spec import HowToLoad, TaskSpec, parse_spec
from loraweave.tasks.task import Task
from loraweave.tasks.task_yaml import read_task_yaml
from loraweave.tasks.untrained import load_untrained


@dataclass(frozen=True)
class Outline:
    """A task that may not have been loaded.

    Attributes:
        name: in this run.
        data: the data set, or the file, that it learns from.
        scored_by: metrics, or "held-out loss"; "nothing" where there is nothing to score it on.
        task: the task itself, where its data are at hand.
    """

    name: str
    data: str
    scored_by: str
    task: Task | None


def outlines(specs: Iterable[Any], how: HowToLoad) -> list[Outline]:
    """The tasks of a run, in the order of their ids; arguments as `load_tasks` takes them. Nothing is downloaded.

    Raises:
        UserError: as `load_tasks`, but not for data that would have to be downloaded.
    """
    specs = list(specs)
    try:
        return _at_hand(lambda: load_tasks(specs, *how))
    except UserError as error:
        if not is_missing_data(error):
            raise
    return _one_by_one(
        specs,
        lambda entry: load_tasks([entry], *how),
        lambda entry, number: _described(parse_spec(entry, f"tasks, entry {number}"), how),
    )


def untrained_outlines(specs: Iterable[Any], trained: Mapping[str, str], how: HowToLoad) -> list[Outline]:
    """What a run is scored on and not trained for, in the order given; arguments as `load_untrained` takes them.
    Nothing is downloaded.

    Raises:
        UserError: as `load_untrained`, but not for data that would have to be downloaded.
    """
    return _one_by_one(
        specs,
        lambda entry: load_untrained([entry], trained, *how),
        lambda entry, number: _described(parse_spec(entry, f"eval.forgetting, entry {number}"), how, scored_alone=True),
    )


def _one_by_one(
    specs: Iterable[Any], load: Callable[[Any], list[Task]], describe: Callable[[Any, int], list[Outline]]
) -> list[Outline]:
    """Each entry loaded, or described where its data are not at hand."""
    found: list[Outline] = []
    for number, entry in enumerate(specs, start=1):
        try:
            found += _at_hand(partial(load, entry))
        except UserError as error:
            if not is_missing_data(error):
                raise
            found += describe(entry, number)
    check_names((outline.name, outline.data) for outline in found)
    return found


def _at_hand(load: Callable[[], list[Task]]) -> list[Outline]:
    with nothing_downloaded():
        tasks = load()
    return [_loaded(task) for task in tasks]


@contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Inside it, `datasets` and the hub's client take what is in their caches and ask nobody."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        stack.enter_context(patch.object(datasets.config, "HF_HUB_OFFLINE", True))
        yield


def is_missing_data(error: UserError) -> bool:
    """Whether an error says that data would have to be downloaded, and cannot be from here."""
    return isinstance(error.__cause__, Exception) and harness.is_missing_data(error.__cause__)


def _loaded(task: Task) -> Outline:
    if task.lm_eval is None:
        return Outline(task.name, task.origin, "held-out loss" if task.is_scored else "nothing: too few rows", task)
    data = _data_set(task.lm_eval.config.to_dict()) if isinstance(task, HarnessTask) else ""
    return Outline(task.name, data or task.origin, ", ".join(task.lm_eval.aggregation()), task)


def _described(spec: TaskSpec, how: HowToLoad, scored_alone: bool = False) -> list[Outline]:
    """A task whose data are not at hand, or the members of a group, from lm-eval's YAML alone."""
    if is_source(spec.task, how.base_dir):
        if spec.eval is None:  # a data set of the hub
            return [Outline(spec.name or Path(spec.task).name, spec.task, spec.metric or "what its columns say", None)]
        evaluation = _configs(spec.eval, how.base_dir, how.trust_code)
        return [Outline(spec.name or parted(spec.task)[0], spec.task, _scored_by(evaluation[0]), None)]
    found = []
    for config in _configs(spec.task, how.base_dir, how.trust_code):
        name = spec.name or str(config["task"])
        if not scored_alone and config.get("training_split") is None and "class" not in config:
            raise UserError(f"the task {name!r} has no training split: it can only be evaluated")
        found.append(Outline(name, _data_set(config), _scored_by(config), None))
    return found


def _configs(what: str, base_dir: Path, trust_code: bool) -> list[dict[str, Any]]:
    """The configurations behind a name of lm-eval's or a YAML: one, or those of all members of a group or tag."""
    if Path(what).suffix in YAML_SUFFIXES:
        path = user_path(what, base_dir)
        config = read_task_yaml(path, trust_code)
        if not isinstance(config.get("task"), list):
            harness.check_keys(config, path)
            return [config]
        beside = harness.folder_index(path.parent)
        members = [str(beside[m].yaml_path) if m in beside else m for m in config["task"]]
        return [config for member in members for config in _configs(member, base_dir, trust_code)]
    if (shipped := harness.shipped_yaml(what)) is not None:
        return [read_task_yaml(shipped)]
    entry = harness.task_manager().task_index[what]
    if entry.kind.name not in ("GROUP", "TAG"):
        return [read_task_yaml(entry.yaml_path)]
    members = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg["task"]
    return [config for m in members if isinstance(m, str) for config in _configs(m, base_dir, trust_code)]


def _data_set(config: dict[str, Any]) -> str:
    """`openai/gsm8k, main`; the file or address that it learns from; or what a function of its own is given."""
    kwargs = config.get("dataset_kwargs") or {}
    files = kwargs.get("data_files")
    if isinstance(files, dict):
        files = files.get(config.get("training_split"))
    if files:
        return ", ".join([files] if isinstance(files, str) else map(str, files))
    names = [config.get("dataset_path") or kwargs.get("path"), config.get("dataset_name")]
    return ", ".join(str(name) for name in names if name)


def _scored_by(config: dict[str, Any]) -> str:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    metrics = [str(metric["metric"]) for metric in config.get("metric_list") or ()]
    return ", ".join(metrics or DEFAULT_METRIC_REGISTRY.get(config.get("output_type", "generate_until"), ()))
