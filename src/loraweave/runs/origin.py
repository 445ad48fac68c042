"""What a run is made from beside its run file: the base and the data. A run that goes on must have the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from loraweave.bases import BaseSpec, fingerprint, resolve_base
from loraweave.data.identity import content_hash, tokenizer_hash
from loraweave.errors import UserError
from loraweave.files import file_hash, write_json, write_json_lines
from loraweave.runs.folder import BaseRecord, RunFolder
from loraweave.shapes import read_shaped
from loraweave.tasks import Task


def describe_base(base: BaseSpec, model: nn.Module, tokenizer: Any) -> dict[str, str]:
    """The content of base.json: the base's name, its fingerprint, how it is loaded where that was said, a hash of its
    tokenizer with the chat template, where that can be told, and of a GGUF file that one's hash."""
    described = {"name": base.name, "fingerprint": fingerprint(model), **base.options()}
    if (hashed := tokenizer_hash(tokenizer)) is not None:
        described["tokenizer"] = hashed
    if (file := Path(resolve_base(base))).is_file():
        described["sha256"] = file_hash(file)
    return described


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


def note_data(folder: RunFolder, tasks: Sequence[Task]) -> None:
    """Write down how the tasks' data were read and shared out, and the rows that were left out; nothing for lm-eval's
    own tasks, which say it themselves."""
    records = {task.name: record for task in tasks if (record := task.record())}
    if records:
        write_json(folder.splits, records)
    skipped = [
        {"task": task.name, "source": row.source, "number": row.number, "why": row.message, "row": _plain(row.content)}
        for task in tasks
        for row in task.skipped
    ]
    if skipped:
        write_json_lines(folder.skipped, skipped)


def _plain(content: Any) -> Any:
    """A row as JSON has it: dates and bytes, which Parquet has, as text."""
    return json.loads(json.dumps(content, default=str))


def hold_to(folder: RunFolder, base: Mapping[str, str], data: Mapping[str, Any]) -> None:
    """Write down what a run is made from; where that is written already, it must be the same.

    Raises:
        UserError: the base is another one, or the tasks or their examples have changed; says what.
    """
    if folder.base.exists():
        check_base(folder.path, read_shaped(folder.base, BaseRecord), base)
    else:
        write_json(folder.base, base)
    if folder.data.exists():
        check_data(folder.path, read_shaped(folder.data, dict[str, dict[str, str]]), data)
    else:
        write_json(folder.data, data)


def check_base(folder: Path, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise `UserError` where what is in a folder was begun with another base, tokenizer or chat template."""
    if before.get("fingerprint") != now["fingerprint"]:
        raise UserError(f"{folder}: cannot resume, {now['name']} is not the base that this was begun with")
    if "tokenizer" in before and before["tokenizer"] != now.get("tokenizer"):  # older records have none
        raise UserError(
            f"{folder}: cannot resume, the tokenizer of {now['name']} or its chat template has changed since this was "
            "begun; put it back, or choose another output"
        )
    was, is_now = (BaseSpec.of_record(each) for each in (before, now))
    if was.options() != is_now.options():
        raise UserError(f"{folder}: cannot resume, this was begun with the base {was}, and now it is {is_now}")


def check_data(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UserError` where there are other tasks, in another order or with other examples, than when what is in a
    folder was begun; says which."""
    if list(before) != list(now):
        raise UserError(
            f"{folder}: cannot resume, this was begun with the tasks {', '.join(before)}, and now they are "
            f"{', '.join(now)}; put them back, in this order, or choose another output"
        )
    changed = [name for name in now if before[name] != now[name]]
    if changed:
        raise UserError(
            f"{folder}: cannot resume, the examples of {', '.join(changed)} have changed since this was begun; "
            "put them back, or choose another output"
        )


def check_moved_data(folder: RunFolder, tasks: Sequence[Task], where: Path) -> None:
    """Raise `UserError` where tasks of a finished run, read below another folder, have other training or validation
    examples than it was trained on; names the tasks."""
    if not folder.data.is_file():
        raise UserError(
            f"{folder.path}: no {folder.data.name}, so whether the data in {where} are its own cannot be told"
        )
    before, now = read_shaped(folder.data, dict[str, dict[str, str]]), describe_data(tasks)
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        raise UserError(
            f"{where}: the examples of {', '.join(changed)} are not those that {folder.path} was trained on"
        )
