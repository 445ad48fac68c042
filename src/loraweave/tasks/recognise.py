"""What a data file, a pattern of files, a folder of `datasets` or a hub name is taken for, without a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.columns import choose_format, rows_of
from loraweave.tasks.formats import Format
from loraweave.tasks.labels import Choices, Labels, UnnamedError
from loraweave.tasks.rows import BadRow, BadRows, FileRows
from loraweave.tasks.sources import Source, is_source, read_source
from loraweave.tasks.spec import TaskSpec, parse_spec


@dataclass(frozen=True)
class Recognised:
    """What some data were taken for, and all that stands in the way of learning from them.

    Attributes:
        where: the path, the pattern or the hub name, paths in full.
        name: that a task of it gets where the run file names none.
        files: where the rows of the training split come from: paths, or a data set's name and split.
        kind: of the first of them: "JSON Lines", "JSON", "CSV", "TSV", "Parquet", "Arrow", "Arrow folder", "text" or
            "hub data set"; "" where nothing could be read.
        format: "chat messages", "ShareGPT conversations", "prompt and completion", "Alpaca", "question and answer",
            "text and label", "plain text" and so on; "" where the columns are of no format: then the last of
            `problems` says what to write.
        columns: all that some row has, in the order of the file, whether they are used or not.
        used: the columns that the format reads.
        rows: that can be used, of all splits.
        labels: by name, how many rows of the training split have each; empty where the task has none. Numbers where
            nothing names them: then the task needs `choices`, and the last of `problems` says so.
        prompt, completion: as templates over the columns; empty for chats, TRL's pairs and plain text.
        chat: the rows are messages, so that the base needs a chat template.
        scored_by: "acc" for labels, "bits_per_byte" for plain text, else "loss", on rows that are held out.
        splits: rows that can be used, by the splits that the data come with: `training` alone for files.
        notes: what was guessed; a line each.
        problems: every row that cannot be used, with file and line in its message, in the order of the file; and what
            is wrong with all of them.
    """

    where: str
    name: str
    files: list[str] = field(default_factory=list)
    kind: str = ""
    format: str = ""
    columns: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    prompt: str = ""
    completion: str = ""
    chat: bool = False
    scored_by: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[BadRow] = field(default_factory=list)


def recognise(entry: str | dict[str, Any] | TaskSpec, base_dir: str | Path = ".") -> Recognised | None:
    """Look at data that may become a task. No model, tokenizer or lm-eval task is loaded, and no row is passed over.

    Args:
        entry: of a run file's `tasks:`: a path, or a mapping with `task` and whatever else is said about it (`prompt`,
            `completion`, `choices`, `metric`, `subset`, `split`).
        base_dir: where relative paths start.

    Returns:
        What was found, problems included, such as a path that is not there; None for what is no data: a name of
        lm-eval's or a task YAML.

    Raises:
        UserError: the entry has an unknown key or an unfit value.
    """
    spec = parse_spec(entry, "the task")
    base = Path(base_dir)
    if not is_source(spec.task, base):
        return None
    bad = BadRows(keep=True)
    try:
        source = read_source(spec.task, base, bad, spec.subset, spec.split)
    except UserError as error:
        problems = [*bad.found, BadRow(str(error), spec.task, 0, None)]
        return Recognised(spec.task, spec.name or Path(spec.task).stem, problems=problems)
    parts = source.splits["training"]
    names = dict.fromkeys(name for part in parts for row in part.rows for name in row)
    about: dict[str, Any] = {
        "where": source.where,
        "name": spec.name or source.name,
        "files": [part.source for part in parts],
        "kind": parts[0].kind,
        "columns": list(names),
    }
    read = {split: sum(len(part.rows) for part in some) for split, some in source.splits.items()}
    wrong: list[BadRow] = []
    notes = [f"{part.source}: {note}" for part in parts for note in part.notes]
    try:
        found = _format(parts, spec, wrong)
    except UserError as error:
        problems = [*bad.found, BadRow(str(error), source.where, 0, None)]
        return Recognised(**about, rows=sum(read.values()), splits=read, notes=notes, problems=problems)
    chat = found.always_chat or bool(spec.chat_template)
    splits, labels = _usable(source, found, chat, bad, notes)
    order = [part.source for some in source.splits.values() for part in some]
    templates = found.templates(chat)
    return Recognised(
        **about,
        format=found.name,
        used=list(found.columns),
        rows=sum(splits.values()),
        labels=labels,
        prompt=templates.get("prompt", ""),
        completion=templates.get("completion", ""),
        chat=found.always_chat,
        scored_by=found.metric,
        splits=splits,
        notes=[*notes, *found.notes],
        problems=sorted(bad.found, key=lambda row: (order.index(row.source), row.number)) + wrong,
    )


def _format(parts: Sequence[FileRows], spec: TaskSpec, wrong: list[BadRow]) -> Format:
    """The format, with numbers for the names of labels that have none; then that is put into `wrong`."""
    try:
        return choose_format(parts, spec.prompt, spec.completion, spec.choices, spec.metric)
    except UnnamedError as error:
        wrong.append(BadRow(str(error), parts[0].source, 0, None))
        names: Choices = {number: str(number) for number in error.numbers}
        return choose_format(parts, spec.prompt, spec.completion, names, spec.metric)


def _usable(
    source: Source, found: Format, chat: bool, bad: BadRows, notes: list[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """The rows of each split that give an example, and those of each label; the others go to `bad`. A split that keeps
    its answers to itself is none, and goes to `notes`."""
    splits: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for split, parts in source.splits.items():
        own = BadRows(keep=True)
        for row in (row for part in parts for row in rows_of(part)):
            try:
                examples = found.examples(row, chat)
            except UserError as error:
                own.add(error, row.source, row.number, row.values)
                continue
            splits[split] += 1
            if isinstance(found, Labels) and split == "training":
                labels[str(examples[0].completion)] += 1
        if split != "training" and own.found and not splits[split]:
            notes.append(f"{parts[0].source}: not used, for no row has an answer")
        else:
            bad.found += own.found
    return dict(splits), {name: labels[name] for name in dict.fromkeys([*getattr(found, "choices", ()), *labels])}
