"""Load a finished run: its base model with the adapter on it, its tokenizer, tasks and configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.bases import Base, check_fingerprint, load_base
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import take_off
from loraweave.runs.attaching import attach
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import BaseRecord, RunFolder, check_trained, read_summary
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
    base: Base | None = None,
    tasks: Sequence[Task] | None = None,
    trust_code: bool = False,
) -> Run:
    """Load a finished run.

    Args:
        folder: of the run.
        base: the base model and tokenizer, if already loaded; call `Run.release` to have it back untouched.
        tasks: if already loaded.
        trust_code: run functions that its task files name, and code that comes with its base; whatever its run file
            says, since a folder may be somebody else's.

    Raises:
        UserError: the folder holds no finished run, the adapter is broken or does not fit (what is wrong is named), or
            the base is not the one that the run was trained on.
    """
    run = RunFolder(folder)
    summary = read_summary(folder)
    check_trained(run.path, summary)
    config = RunConfig.load(run.config).model_copy(update={"trust_code": trust_code})
    with quiet_libraries():
        if summary["adapter"] == run.model.name:
            model, tokenizer = load_base(run.model, trust_code=trust_code)
        else:
            model, tokenizer = base or load_base(config.model, trust_code=trust_code)
            check_fingerprint(model, read_shaped(run.base, BaseRecord).get("fingerprint", "none"), str(run.path))
        if summary["adapter"] == run.adapter.name:
            model = attach(model, run.adapter)
        return Run(run.path, config, summary, model.eval(), tokenizer, list(tasks or config.load_tasks()))
