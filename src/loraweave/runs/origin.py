"""What a run is made from beside its run file: the base and the data. A run that goes on must have the same."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from loraweave.adapters.config import tokenizer_differences
from loraweave.bases import BaseSpec, fingerprint, resolve_base
from loraweave.data.identity import content_hash, tokenizer_hash
from loraweave.errors import Notice, UserError
from loraweave.files import file_hash, write_json, write_json_lines
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import BaseRecord, RunFolder
from loraweave.shapes import read_shaped
from loraweave.tasks import Task
from loraweave.tasks.rows import plain_values


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
    """The content of data.json: by task, a hash of the examples that it is trained on, one of those held out, and one
    of those that it is scored on."""
    return {
        task.name: {
            "training": content_hash(task.training_examples()),
            "validation": content_hash(task.validation_examples()),
            "test": content_hash(task.test_examples()),
        }
        for task in tasks
    }


def note_data(folder: RunFolder, tasks: Sequence[Task], base_dir: Path) -> None:
    """Write down how the tasks' data were read and shared out, and the rows that were left out, with what lies below
    `base_dir` by its path from there; nothing for lm-eval's own tasks, which say it themselves."""
    start = f"{base_dir}{os.sep}"
    records = {task.name: _without(start, record) for task in tasks if (record := task.record())}
    if records:
        write_json(folder.splits, records)
    skipped = []
    for task in tasks:
        for row in task.skipped:
            where = {"source": row.source, "number": row.number, "why": row.message}
            skipped.append({"task": task.name, **_without(start, where), "row": plain_values(row.content)})
    if skipped:
        write_json_lines(folder.skipped, skipped)


def plain_tasks(folder: RunFolder, config: RunConfig, names: Sequence[str]) -> list[str]:
    """The tasks of a run that were trained on plain prompts, which no chat template has gone over, as far as its files
    say it.

    Args:
        folder: of the run.
        config: its run file.
        names: of its tasks.
    """
    records = read_shaped(folder.splits, dict[str, dict[str, Any]]) if folder.splits.is_file() else {}
    asked = config.chat_template or any(
        isinstance(entry, dict) and entry.get("chat_template") for entry in config.tasks
    )
    return [name for name in names if (asked if name not in records else records[name].get("chat_template")) is False]


def _without(start: str, value: Any) -> Any:
    """A record with the beginning of its paths taken away."""
    if isinstance(value, dict):
        return {_without(start, key): _without(start, part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without(start, part) for part in value]
    return value.replace(start, "") if isinstance(value, str) else value


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


def say_other_tokenizer(folder: Path, before: Mapping[str, Any], adapter: Path, name: str, tokenizer: Any) -> None:
    """Say, as a `Notice`, that what is in a folder was trained with another tokenizer or chat template than it has now,
    or may have been.

    Args:
        folder: of a run or an adapter.
        before: its base.json; older ones, and adapters of other tools, do not tell.
        adapter: the adapter's own folder.
        name: of the base whose tokenizer it has now.
        tokenizer: that one.
    """
    said = ""
    if "tokenizer" not in before and (other := tokenizer_differences(adapter, tokenizer)):
        said = (
            f"the tokenizer in {adapter} has {other} than that of {name}, which is used: if this was "
            "trained with its own, save the base with that and name it with --base (base=…)"
        )
    # Other versions of transformers write the files of those that are not of the `tokenizers` library otherwise.
    told = before.get("tokenizer") is not None and getattr(tokenizer, "is_fast", False)
    if told and tokenizer_hash(tokenizer) not in (None, before["tokenizer"]):
        said = f"the tokenizer of {name} or its chat template is another one than when this was trained"
    if said:
        warnings.warn(f"{folder}: {said}", Notice, stacklevel=3)


def check_data(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UserError` where there are other tasks, in another order or with other examples, than when what is in a
    folder was begun; says which."""
    if list(before) != list(now):
        raise UserError(
            f"{folder}: cannot resume, this was begun with the tasks {', '.join(before)}, and now they are "
            f"{', '.join(now)}; put them back, in this order, or choose another output"
        )
    changed = _other_examples(before, now)
    if changed:
        raise UserError(
            f"{folder}: cannot resume, the examples of {', '.join(changed)} have changed since this was begun; "
            "put them back, or choose another output"
        )


def check_moved_data(folder: RunFolder, tasks: Sequence[Task], where: Path) -> None:
    """Raise `UserError` where tasks of a finished run, read below another folder, have other examples than it was
    trained and is scored on; names the tasks."""
    if not folder.data.is_file():
        raise UserError(
            f"{folder.path}: no {folder.data.name}, so whether the data in {where} are its own cannot be told"
        )
    before = read_shaped(folder.data, dict[str, dict[str, str]])
    if before and (unknown := [task.name for task in tasks if task.name not in before]):  # none of an untrained base
        raise UserError(
            f"{where}: there the tasks of {folder.path} are called {', '.join(unknown)}, and they were "
            f"{', '.join(before)}: a pattern of nothing but stars is called after its folder, so call that as it was"
        )
    changed = _other_examples(before, describe_data(tasks))
    if changed:
        raise UserError(
            f"{where}: the examples of {', '.join(changed)} are not those that {folder.path} was trained on"
        )


def scored_data(folder: RunFolder, tasks: Sequence[Task]) -> tuple[dict[str, str], list[str]]:
    """What a finished run is scored on now.

    Returns:
        By task a hash of the examples; and the tasks that had others when it was trained, so that examples that it
        learned may be among them. Nothing of a task whose right answers lm-eval alone knows, and nothing for a folder
        without a record of its data.
    """
    if not folder.data.is_file():
        return {}, []
    before = read_shaped(folder.data, dict[str, dict[str, str]])
    now = {}
    for task in tasks:
        with suppress(UserError):
            now[task.name] = content_hash(task.test_examples())
    return now, [name for name, hashed in now.items() if before.get(name, {}).get("test", hashed) != hashed]


def _other_examples(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The tasks of which some hash is another one; older records have none of what is scored."""
    return [name for name in now if name in before and not before[name].items() <= now[name].items()]
