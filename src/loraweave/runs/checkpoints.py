"""The checkpoints of a run: which of them are whole, and no half of one left behind."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loraweave.errors import UserError
from loraweave.files import disk_is_full

_NAME = re.compile(r"checkpoint-(\d{1,18})", re.ASCII)


@contextmanager
def saved_or_removed(checkpoint: Path) -> Iterator[None]:
    """Around the saving of a checkpoint: if that fails, half a checkpoint is not left behind.

    Raises:
        UserError: the disk is full; names the last good checkpoint, which is still there.
    """
    try:
        yield
    except Exception as error:
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
        if disk_is_full(error):
            last = last_good_checkpoint(checkpoint.parent)
            kept = f"the last good one is {last}" if last else "there is none before it"
            raise UserError(f"{checkpoint}: the disk is full, so this checkpoint was not saved; {kept}") from error
        raise


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder of checkpoints."""
    steps = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    return next((steps[step] for step in sorted(steps, reverse=True) if is_complete(steps[step])), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes its own state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
