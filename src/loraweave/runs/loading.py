"""Load a finished run: its base model with the adapter on it, its tokenizer, tasks and configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.bases import Base, check_fingerprint, load_base
from loraweave.errors import UserError
from loraweave.paths import user_path
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import take_off
from loraweave.runs.attaching import attach
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import BaseRecord, RunFolder, check_trained, naming_base, read_summary
from loraweave.runs.origin import check_moved_data, say_other_tokenizer
from loraweave.shapes import read_shaped
from loraweave.tasks import Task


@dataclass
class Run:
    """A finished run, ready to use.

    Attributes:
        folder: of the run.
        config: the full run file.
        summary: as in `summary.json`.
        model: the base with the adapter on it; the trained model after full fine-tuning; the base itself for `base`.
        tokenizer: the base's.
        tasks: in the order of their ids.
    """

    folder: Path
    config: RunConfig
    summary: dict[str, Any]
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    tasks: list[Task]

    def release(self) -> None:
        """Take the adapter off a base that is shared with other runs."""
        if isinstance(self.model, PeftModel):
            self.model = take_off(self.model)


def load_run(
    folder: str | Path,
    *,
    base: Base | str | None = None,
    tasks: Sequence[Task] | None = None,
    data_dir: str | Path | None = None,
    trust_code: bool = False,
) -> Run:
    """Load a finished run. A tokenizer or chat template that has changed since it was trained is a `Notice`.

    Args:
        folder: of the run.
        base: the base model and tokenizer, if already loaded (call `Run.release` to have it back untouched); or the
            name or folder where the base is now.
        tasks: if already loaded.
        data_dir: where its task and data files are now, by the paths that they had from the run file's folder. Their
            examples must be the same.
        trust_code: run functions that its task files name, and code that comes with its base; whatever its run file
            says, since a folder may be somebody else's.

    Raises:
        UserError: the folder holds no finished run, the adapter is broken or does not fit (what is wrong is named), or
            the base, or what is in `data_dir`, is not what the run was trained on.
    """
    run = RunFolder(folder)
    summary = read_summary(folder)
    check_trained(run.path, summary)
    config = run_file_of(run, data_dir, trust_code)
    given = base
    if isinstance(base, str):
        config, base = config.model_copy(update={"model": config.base.renamed(base)}), None
    with quiet_libraries():
        if summary["adapter"] == run.model.name:
            model, tokenizer = load_base(config.base.renamed(str(run.model)), trust_code=trust_code)
        else:
            with naming_base(run.path, given):
                model, tokenizer = base or load_base(config.base)
            record = read_shaped(run.base, BaseRecord)
            check_fingerprint(model, record.get("fingerprint", "none"), str(run.path))
            say_other_tokenizer(run.path, record, run.adapter, config.base.name, tokenizer)
        if summary["adapter"] == run.adapter.name:
            model = attach(model, run.adapter)
        if not tasks:
            tasks = tasks_of(run, config, data_dir)
        elif data_dir is not None:
            check_moved_data(run, tasks, Path(data_dir))
    return Run(run.path, config, summary, model.eval(), tokenizer, list(tasks))


def run_file_of(run: RunFolder, data_dir: str | Path | None, trust_code: bool) -> RunConfig:
    """The run file of a finished run, as whoever opens the run wants it.

    Args:
        run: its folder.
        data_dir: where its data are now, by the paths that they had from the run file's folder; where they were if
            None.
        trust_code: whatever the run file says, since a folder may be somebody else's.

    Raises:
        UserError: it cannot be read, or there is no folder `data_dir`.
    """
    config = run.read_config().model_copy(update={"trust_code": trust_code})
    if data_dir is None:
        return config
    folder = user_path(data_dir).absolute()
    if not folder.is_dir():
        raise UserError(f"data_dir: there is no folder {folder}")
    return config.moved_to(folder)


def tasks_of(run: RunFolder, config: RunConfig, data_dir: str | Path | None = None) -> list[Task]:
    """The tasks of a finished run.

    Args:
        run: its folder.
        config: its run file, moved to `data_dir` where that is given.
        data_dir: where its data are now; they must be the same.

    Raises:
        UserError: as of `load_tasks`, and how to say where their files are, where they are not here; other data.
    """
    try:
        tasks = config.load_tasks()
    except UserError as error:
        if config.lacking() is None:
            raise
        raise UserError(
            f"{error} (the run's own folder of data is not here: say with --data-dir where it is)"
        ) from None
    if data_dir is not None:
        check_moved_data(run, tasks, Path(data_dir))
    return tasks
