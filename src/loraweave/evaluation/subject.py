"""What is evaluated: a finished run on its own tasks, or an adapter or model by itself on tasks that are named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.bases import device, load_base
from loraweave.config import WeaveConfig
from loraweave.errors import UserError, nearest
from loraweave.evaluation.loaded import load
from loraweave.runs.config import EvalConfig
from loraweave.runs.folder import RunFolder, check_no_comparison, naming_base
from loraweave.runs.loading import Run, load_run
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.untrained import load_untrained


@dataclass(frozen=True)
class Subject:
    """Something to evaluate, on its device.

    Attributes:
        folder: where what is found is kept.
        card: of the folder whose card gets the scores.
        method, base: names, for people.
        trained: whether it is anything else than its base.
        model, tokenizer: as loaded.
        load_untouched: gives the model as it was before it was trained.
        tasks: that it is scored on.
        load_untrained: gives what it was not trained for, from entries as of `eval.forgetting`.
        settings, seed: how.
    """

    folder: Path
    card: Path
    method: str
    base: str
    trained: bool
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    load_untouched: Callable[[], PreTrainedModel]
    tasks: list[Task]
    load_untrained: Callable[[Sequence[Any]], list[Task]]
    settings: EvalConfig
    seed: int


def subject_of(run: Run, names: Sequence[str] | None = None) -> Subject:
    """A run, on all of its tasks or on those of some names.

    Raises:
        UserError: the run has no such task.
    """
    config, where = run.config, device()

    def untouched() -> PreTrainedModel:
        with naming_base(run.folder):
            return load_base(config.base)[0].to(where)

    return Subject(
        folder=run.folder,
        card=RunFolder(run.folder).adapter,
        method=run.summary["method"],
        base=config.base.name,
        trained=run.summary["adapter"] is not None,
        model=run.model.to(where),
        tokenizer=run.tokenizer,
        load_untouched=untouched,
        tasks=_chosen(run.tasks, names),
        load_untrained=lambda given: config.load_forgetting(run.tasks, given),
        settings=config.eval,
        seed=config.seed,
    )


def load_subject(
    folder: Path,
    tasks: Sequence[Any] | None,
    *,
    data_dir: str | Path | None = None,
    base: str | None = None,
    chat_template: bool = False,
    trust_code: bool = False,
) -> Subject:
    """What a folder holds.

    Args:
        folder: of a finished run, or of an adapter or a model by itself.
        tasks: of a run's own tasks these alone, by name; for whatever is no run, as in a run file.
        data_dir: as of `runs.loading.load_run`; for what is no run, where task YAMLs look for their data.
        base: name or folder of the base, in the place of the one that the folder names.
        chat_template: for what is no run, send prompts through the tokenizer's chat template.
        trust_code: run functions that task files name, and code that comes with a base.

    Raises:
        UserError: there is nothing of the kind, or it is broken; a task is unknown, or none is named.
    """
    check_no_comparison(folder)
    if RunFolder(folder).config.is_file():
        if chat_template:
            raise UserError(f"{folder}: a run, whose run file says whether prompts go through the chat template")
        return subject_of(load_run(folder, base=base, data_dir=data_dir, trust_code=trust_code), tasks)
    if isinstance(tasks, str) or not tasks:
        raise UserError(
            f"{folder}: this folder holds no run, so nothing says what its tasks are: name them with tasks=[...], "
            "or --tasks"
        )
    loaded = load(folder, base=base, trust_code=trust_code)
    config: Any = getattr(loaded.model, "active_peft_config", None)
    method = getattr(config, "method", "") if isinstance(config, WeaveConfig) else "LoRA" if config else "model"
    named = load_tasks(tasks, Path.cwd(), data_dir, chat_template, trust_code=trust_code)
    known = {task.name: task.origin for task in named}
    return Subject(
        folder=folder,
        card=folder,
        method=method,
        base=str(loaded.model.config.name_or_path),
        trained=True,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        load_untouched=loaded.load_untouched,
        tasks=named,
        load_untrained=lambda given: load_untrained(given, known, Path.cwd(), data_dir, chat_template, 0, trust_code),
        settings=EvalConfig(),
        seed=0,
    )


def _chosen(available: Sequence[Task], names: Sequence[str] | None) -> list[Task]:
    """The tasks of a run that are asked for, in the order asked."""
    by_name = {task.name: task for task in available}
    if names is None:
        return list(available)
    if isinstance(names, str):
        raise UserError(f"tasks: a list of names, got {names!r} alone")
    if not names:
        raise UserError(f"tasks, or --tasks: name at least one of {', '.join(by_name)}")
    for name in names:
        if not isinstance(name, str) or name not in by_name:
            raise UserError(f"the run has no task {name!r}{nearest(name, by_name)} (its tasks: {', '.join(by_name)})")
    return [by_name[name] for name in dict.fromkeys(names)]
