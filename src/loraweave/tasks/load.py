"""From the `tasks:` of a run to task objects."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, shown
from loraweave.paths import user_path
from loraweave.tasks.data_task import DataTask
from loraweave.tasks.files import SUFFIXES, existing
from loraweave.tasks.harness import named_tasks, yaml_tasks
from loraweave.tasks.harness_task import HarnessTask
from loraweave.tasks.local_data import LocalTask
from loraweave.tasks.sources import YAML_SUFFIXES, is_source, no_data_set
from loraweave.tasks.spec import A_NAME, FOR_DATA, OnBadRow, TaskSpec, is_name, parse_spec
from loraweave.tasks.task import Task


def load_tasks(
    specs: Iterable[Any],
    base_dir: str | Path,
    data_dir: str | Path | None = None,
    chat_template: bool = False,
    seed: int = 0,
    trust_code: bool = False,
    on_bad_row: OnBadRow = "error",
) -> list[Task]:
    """Load the tasks of a run, in the order given.

    Args:
        specs: strings or mappings (see `TaskSpec`). The name of an lm-eval group or tag stands for all its tasks.
        base_dir: where relative paths start: the run file's folder.
        data_dir: where the relative `data_files` of task YAMLs are looked for first; then in the YAML's own folder.
        chat_template: for tasks that do not say it themselves.
        seed: of the draw of validation examples of lm-eval's tasks; those of data are the same whatever the seed.
        trust_code: run functions that the task files name (`!function`). Those of lm-eval's own tasks always run.
        on_bad_row: for data that do not say it themselves: whether a row that cannot be used is an error, or skipped.

    Raises:
        UserError: with the file and the place of whatever is wrong, rows of local files included; or a task file names
            code and is not trusted.
    """
    if isinstance(specs, (str, Mapping)):
        raise UserError(f"tasks: a list of tasks, got {shown(specs)} alone")
    base = Path(base_dir)
    tasks: list[Task] = []
    for number, entry in enumerate(specs, start=1):
        spec = parse_spec(entry, f"tasks, entry {number}")
        where = spec.data_dir or data_dir
        folder = _at(base, where) if where is not None else None
        if folder is not None and not folder.is_dir():
            raise UserError(f"data_dir: there is no folder {folder}")
        chat = chat_template if spec.chat_template is None else spec.chat_template
        tasks += _load(spec, base, folder, chat, seed, trust_code, (spec.on_bad_row or on_bad_row) == "skip")
    if not tasks:
        raise UserError("tasks: there is none; name at least one")
    check_names((task.name, task.origin) for task in tasks)
    return tasks


def check_names(tasks: Iterable[tuple[str, str]]) -> None:
    """Raise UserError for a name that two tasks have, or that none can have; `tasks`: each name, and its origin."""
    seen: dict[str, str] = {}
    for name, origin in tasks:
        if not is_name(name):
            raise UserError(f"{origin}: a task cannot be called {shown(name)}: {A_NAME}")
        if name in seen:
            raise UserError(
                f"two tasks are called {name!r} ({seen[name]} and {origin}): "
                f"write one as {{task: ..., name: another_name}}"
            )
        seen[name] = origin


def _load(
    spec: TaskSpec, base: Path, data_dir: Path | None, chat: bool, seed: int, trust_code: bool, skip: bool
) -> list[Task]:
    if is_source(spec.task, base):
        return [_data_task(spec, base, data_dir, chat, skip, trust_code)]
    for key in FOR_DATA:
        if getattr(spec, key) is not None:
            raise UserError(f"{spec.task}: {key!r} belongs to data; lm-eval's task says its own")
    if isinstance(spec.validation, str):
        raise UserError(f"{spec.task}: 'validation' is a share here, such as 0.05; a file goes into validation_split")
    found, origin = _lm_eval_tasks(spec.task, base, data_dir, trust_code)
    if spec.name is not None:
        if len(found) > 1:
            raise UserError(f"{spec.task} stands for {len(found)} tasks, so they cannot all be named {spec.name!r}")
        found[0].set_config("task", spec.name)  # so that two uses of one YAML stay apart inside lm-eval too
    tasks: list[Task] = []
    for item in found:
        task = HarnessTask(item.task_name, origin, chat, item, spec.validation, seed)
        ours = "config_source" in (item.config.metadata or {})
        if ours and (item.config.dataset_kwargs or {}).get("data_files"):
            task.test_examples()  # a wrong label in the test file must show before training, not after it
        tasks.append(task)
    return tasks


def _data_task(spec: TaskSpec, base: Path, data_dir: Path | None, chat: bool, skip: bool, trust_code: bool) -> DataTask:
    if spec.data_dir is not None and spec.eval is None:
        raise UserError(f"{spec.task}: 'data_dir' is for task YAMLs; give the file's own path")
    lm_eval = None
    if spec.eval is not None:
        if is_source(spec.eval, base):
            raise UserError(f"{spec.task}: 'eval' is an lm-eval name or YAML; a file to measure the loss on is 'test'")
        found, _ = _lm_eval_tasks(spec.eval, base, data_dir, trust_code)
        if len(found) > 1:
            raise UserError(f"{spec.task}: 'eval' must be one task, and {spec.eval} stands for {len(found)}")
        lm_eval = found[0]
    for key in ("test", "metric"):
        if lm_eval is not None and getattr(spec, key) is not None:
            raise UserError(f"{spec.task}: lm-eval's task scores it, so {key!r} has no meaning beside 'eval'")
    for key in ("validation", "test"):
        other = getattr(spec, key)
        if isinstance(other, str) and _at(base, other).resolve() == _at(base, spec.task).resolve():
            raise UserError(f"{spec.task}: {key!r} is the training file itself")
    task = DataTask(spec, base, chat, lm_eval, skip)
    if lm_eval is not None:
        lm_eval.set_config("task", task.name)
    if isinstance(lm_eval, LocalTask) and (both := task.sources & lm_eval.scored_files):
        task.notes.append(
            f"{min(both)} is learned, and it is what {spec.eval} scores: name another file to score rows unseen"
        )
    return task


def _lm_eval_tasks(what: str, base: Path, data_dir: Path | None, trust_code: bool) -> tuple[list[Any], str]:
    """The lm-eval tasks of a name or a YAML, and where they came from."""
    if Path(what).suffix in YAML_SUFFIXES:
        return yaml_tasks(_at(base, what), data_dir, trust_code), str(_at(base, what))
    if "/" in what or "\\" in what:
        known = ", ".join(YAML_SUFFIXES + SUFFIXES)
        raise UserError(f"{existing(_at(base, what), 'task')}: a task file ends in one of {known}")
    if (here := _at(base, what)).is_file() and here.suffix:
        raise UserError(f"{here}: a task file ends in one of {', '.join(YAML_SUFFIXES + SUFFIXES)}; save it as one")
    try:
        return named_tasks(what), f"lm-eval {version('lm-eval')}"
    except UserError as error:
        if here.is_dir() and error.__cause__ is None:  # no name of lm-eval's
            raise no_data_set(here) from None
        raise


def _at(base: Path, path: str | Path) -> Path:
    return user_path(path, base)
