"""The checkpoints of a run: written aside, brought to the disk with a list of their files, then renamed.

A checkpoint is whole if every file of its list is there as it was written; a run goes on from the newest whole one.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, Required, TypedDict

from loraweave.errors import UserError, in_a_line
from loraweave.files import damage, disk_is_full, hashes_of, put_in_place, read_json, write_json
from loraweave.shapes import read_shaped

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
UNFINISHED = "unfinished"
_NAME = re.compile(r"checkpoint-(\d{1,18})", re.ASCII)


class _Manifest(TypedDict):
    files: dict[str, str]
    processes: NotRequired[int]


class _State(TypedDict, total=False):
    """Of transformers' state of a run what is read here."""

    global_step: Required[int]
    epoch: float | None
    log_history: list[dict[str, Any]]
    best_model_checkpoint: str | None
    best_global_step: int | None
    best_metric: float | None


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: to go on from; None for the start.
        torn: by name, what is wrong with newer checkpoints, which are left out.
    """

    checkpoint: Path | None = None
    torn: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is told: `resuming from step 40; checkpoint-60 is torn: optimizer.pt is missing`."""
        where = (
            "the start, there is no checkpoint yet" if self.checkpoint is None else f"step {step_of(self.checkpoint)}"
        )
        return "; ".join([f"resuming from {where}", *(f"{name} is torn: {why}" for name, why in self.torn.items())])


def checkpoints_in(folder: Path) -> list[Path]:
    """What is called a checkpoint in a folder of them, the newest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=step_of)[::-1]


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def newest_whole(folder: Path, with_best: bool = False) -> Start:
    """The newest whole checkpoint in a folder of them.

    Args:
        with_best: one that knows of a best checkpoint counts only if that is whole too.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    torn: dict[str, str] = {}
    for checkpoint in checkpoints_in(folder):
        fault = fault_of(checkpoint)
        if fault is None and with_best and (best := best_of(checkpoint)):
            fault = fault_of(best) and f"the best one before it, {best.name}, is not whole"
        if fault is None:
            return Start(checkpoint, torn)
        torn[checkpoint.name] = fault
    if torn:
        listed = "; ".join(f"{name}: {why}" for name, why in torn.items())
        raise UserError(f"{folder}: cannot resume, no checkpoint is whole ({listed}); remove the run to train anew")
    return Start()


def best_of(checkpoint: Path) -> Path | None:
    """The best checkpoint that a whole one knows of, beside it, whatever its folder was called; it may be gone."""
    best = read_json(checkpoint / STATE).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if best else None


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where it is whole. Every file in it is read."""
    if not (checkpoint / MANIFEST).is_file():
        return f"{MANIFEST}, the list of its files, is missing"
    try:
        found = damage(checkpoint, read_shaped(checkpoint / MANIFEST, _Manifest)["files"])
    except UserError:
        return f"{MANIFEST}, the list of its files, is broken"
    return found or _fault_of_state(checkpoint)


def _fault_of_state(checkpoint: Path) -> str | None:
    from transformers import TrainerState  # all of the trainer comes with it

    try:
        step = read_shaped(checkpoint / STATE, _State)["global_step"]
        TrainerState.load_from_json(str(checkpoint / STATE))
    except Exception as error:  # of transformers, for whatever else is in it
        return f"{STATE} is no state of a run: {in_a_line(error)}"
    return None if step == step_of(checkpoint) else f"{STATE} is of step {step}"


def check_processes(checkpoint: Path, processes: int) -> None:
    """Raise UserError where a checkpoint was written by another number of processes than would go on from it."""
    written_by = read_shaped(checkpoint / MANIFEST, _Manifest).get("processes", processes)
    if written_by != processes:
        raise UserError(
            f"{checkpoint}: cannot resume, the processes were {written_by} and are now {processes}: other rows would "
            "share a step"
        )


@contextmanager
def saved_or_told(checkpoint: Path) -> Iterator[Path]:
    """A folder to write a checkpoint into, under its name, before `finish` puts it in place; removed if that fails.

    Raises:
        UserError: the disk is full; names the last checkpoint, which is still there.
    """
    unfinished = checkpoint.parent / UNFINISHED
    try:
        yield unfinished
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if disk_is_full(error):
            last = next((path for path in checkpoints_in(checkpoint.parent) if path != checkpoint), None)
            kept = f"the last good one is {last}" if last else "there is none before it"
            raise UserError(f"{checkpoint}: the disk is full, so this checkpoint was not saved; {kept}") from error
        raise


def finish(unfinished: Path, checkpoint: Path, processes: int) -> None:
    """Put a checkpoint in place that was written into the folder `unfinished` by so many processes, with the list of
    its files."""
    written = unfinished / checkpoint.name
    write_json(written / MANIFEST, {"format": 1, "processes": processes, "files": hashes_of(written)})
    put_in_place(written, checkpoint)
    shutil.rmtree(unfinished, ignore_errors=True)
