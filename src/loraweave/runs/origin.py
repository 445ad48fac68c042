"""What a run is made from beside its run file: the base and the data. A run that goes on must have the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from loraweave.bases import fingerprint
from loraweave.data.identity import content_hash
from loraweave.errors import UserError
from loraweave.files import read_json, write_json
from loraweave.runs.folder import RunFolder
from loraweave.tasks import Task


def describe_base(name: str, model: nn.Module) -> dict[str, str]:
    """The content of base.json: the base's name, and its fingerprint."""
    return {"name": name, "fingerprint": fingerprint(model)}


def describe_data(tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """The content of data.json: by task, a hash of the examples that it is trained on, and one of those held out."""
    return {
        task.name: {
            "training": content_hash(task.training_examples()),
            "validation": content_hash(task.validation_examples()),
        }
        for task in tasks
    }


def describe_scored_data(tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """As `describe_data`, with a hash of the examples that each task is scored on."""
    known = describe_data(tasks)
    return {task.name: {**known[task.name], "test": content_hash(task.test_examples())} for task in tasks}


def hold_to(folder: RunFolder, base: Mapping[str, str], data: Mapping[str, Any]) -> None:
    """Write down what a run is made from; where that is written already, it must be the same.

    Raises:
        UserError: the base is another one, or a task's examples have changed; names it.
    """
    if folder.base.exists():
        check_base(folder.path, read_json(folder.base), base)
    write_json(folder.base, base)
    if folder.data.exists():
        check_data(folder.path, read_json(folder.data), data)
    write_json(folder.data, data)


def check_base(folder: Path, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise `UserError` where what is in a folder was begun with another base."""
    if before.get("fingerprint") != now["fingerprint"]:
        raise UserError(f"{folder}: cannot resume, {now['name']} is not the base that this was begun with")


def check_data(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UserError` where tasks have other examples than when what is in a folder was begun; names those tasks."""
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{folder}: cannot resume, the examples of {', '.join(changed)} have changed since this was begun; "
            "put them back, or choose another output"
        )
