"""A first run file for the files of a folder: which of them are tasks, how each was understood, and on which base."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.adapters.write import BASE_RECORD
from loraweave.bases.gguf import SUFFIX as GGUF
from loraweave.errors import UserError
from loraweave.runs.config import DEFAULT_METHOD, RunConfig
from loraweave.runs.schema import FILE as SCHEMA
from loraweave.tasks.files import is_data, parted
from loraweave.tasks.recognise import Recognised, recognise
from loraweave.tasks.sources import SPLITS, YAML_SUFFIXES, is_saved
from loraweave.tasks.task_yaml import data_of_task, names_in
from loraweave.terminal import tame

NAME = "run.yaml"
NO_DATA = re.compile(
    r"(requirements|constraints|readme|licen[cs]e|copying|changelog|notice|robots|package|tsconfig)", re.IGNORECASE
)
"""Beginnings of names of files that are about a project and no data."""
SPLIT = re.compile(
    rf"(?P<name>.*?)(?P<mark>[-_.]?)(?P<split>{'|'.join(name for names in SPLITS.values() for name in names)})$",
    re.IGNORECASE,
)
PART = re.compile(r"-(?:\d{5}|\*)-of-(\d{5})$")
"""The end of names that `datasets` gives to the parts of a split, train-00000-of-00002, and of a pattern for all."""
UNREAD = frozenset(".xlsx .xls .ods .zip .tar .tgz .pkl .pickle .feather .orc .db .sqlite .pdf .docx".split())
"""Files that often hold data and are none that is read: that is said, so that nobody waits for them."""
WIDTH = 100
MOST_SHOWN = 12
UNLIKE = 4
"""Tasks of which the largest has so many times the rows of the smallest are evened out somewhat."""

_Group = tuple[Path, str, tuple[str, ...]]
"""What files have in common that may be splits of one task: folder, name and columns."""


@dataclass(frozen=True)
class Found:
    """A task that a folder holds.

    Attributes:
        entry: as it goes into the run file.
        seen: what its training rows were taken for; None for a task file in lm-eval's format.
    """

    entry: dict[str, Any]
    seen: Recognised | None


@dataclass
class Draft:
    """What a folder holds, and the run file that follows from it.

    Attributes:
        folder: that was looked at.
        tasks: found in it.
        bases: models in it, by their paths from it.
        left: files that were looked at and left out, with the reason.
        text: of the run file.
    """

    folder: Path
    tasks: list[Found] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    text: str = ""


def draft(folder: str | Path, model: str | None = None) -> Draft:
    """Look at the files of a folder and of those right below it, and write a run file for them.

    Args:
        folder: with data files, task files in lm-eval's format, perhaps a base model.
        model: the base; by default one that the folder holds, else nano.

    Returns:
        What was found, and the run file's text, which is not written anywhere.

    Raises:
        UserError: there is no such folder, or nothing in it that could be a task.
    """
    found = Draft(Path(folder))
    if not found.folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    tasks, data = [], []
    used: set[Path] = set()
    files = [*_files(found, found.folder)]
    yamls = {path: names_in(path) for path in files if path.suffix in YAML_SUFFIXES}
    groups = {(path.parent, name): path.name for path, (_, listed) in yamls.items() for name in listed}
    for path in files:
        if path in yamls:
            if (its_data := data_of_task(path)) is not None:
                used |= {each.resolve() for each in its_data}
                if group := groups.get((path.parent, yamls[path][0] or "")):
                    found.left[_from(found, path)] = f"one of the tasks of {group}"
                else:
                    tasks.append(Found({"task": _from(found, path)}, None))
        else:
            data.append(_whole(path))
    data = list(dict.fromkeys(data))
    seen = {path: _seen(found, path) for path in data if path.resolve() not in used}
    tasks += _entries(found, {path: one for path, one in seen.items() if one is not None})
    if not tasks:
        looked = f" ({'; '.join(f'{name}: {why}' for name, why in found.left.items())})" if found.left else ""
        raise UserError(
            f"{folder}: holds nothing that could be a task{looked}; data are .jsonl, .json, .csv, .tsv, .parquet, "
            ".arrow or .txt files, and tasks in lm-eval's format .yaml files"
        )
    found.tasks = _named_apart(tasks)
    found.text = "\n".join(_lines(found, model)) + "\n"
    return found


def _files(found: Draft, folder: Path, below: int = 1) -> Iterator[Path]:
    """Files that may be data or tasks, of a folder and of those right below it; bases are noted, not gone into."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.suffix == GGUF or (path / "config.json").is_file():
            found.bases.append(_from(found, path))
        elif is_saved(path) or _may_be_data(path):
            yield path
        elif path.suffix.lower() in UNREAD and path.is_file():
            found.left[_from(found, path)] = "no kind of file that is read: save it as CSV, JSON Lines or text"
        elif path.is_dir() and below and not _holds_results(path):
            yield from _files(found, path, below - 1)


def _may_be_data(path: Path) -> bool:
    kind = is_data(path) or path.suffix in YAML_SUFFIXES
    about = parted(path)[1] in (".txt", ".json") and NO_DATA.match(path.name)  # package_reviews.csv is none of these
    return path.is_file() and kind and not about


def _whole(path: Path) -> Path:
    """The pattern of all parts where a file is one of several parts of a split; else the file."""
    part = PART.search(parted(path)[0])
    several = part is not None and int(part[1]) > 1
    return path.with_name(path.name.replace(part[0], f"-*-of-{part[1]}")) if part and several else path


def _name(path: Path) -> str:
    """What a file is called, without its suffixes and which part of how many it is."""
    return PART.sub("", parted(path)[0])


def _holds_results(path: Path) -> bool:
    """Whether a folder holds runs, an adapter or an environment of Python's, and no data."""
    marks = (ADAPTER_CONFIG, "summary.json", "pyvenv.cfg", BASE_RECORD, "results.json")
    return path.name in ("runs", "node_modules") or any((path / mark).is_file() for mark in marks)


def _from(found: Draft, path: Path) -> str:
    return path.relative_to(found.folder).as_posix()


def _seen(found: Draft, path: Path) -> Recognised | None:
    """What a file is taken for; one that is none of the formats is left out, with the reason."""
    seen = recognise(_from(found, path), found.folder)
    if seen is None or not seen.format or not seen.rows:
        why = seen.problems[-1].message if seen is not None and seen.problems else "no data"
        found.left[_from(found, path)] = why.partition(": ")[2] or why
        return None
    return seen


def _entries(found: Draft, seen: dict[Path, Recognised]) -> list[Found]:
    """The tasks that data files are: those that are splits of one, by their names and columns, make one together."""
    groups: dict[_Group, dict[str, Path]] = {}
    for path, one in seen.items():
        match = SPLIT.match(_name(path))
        split = _split(match["split"]) if match else "train"
        key = path.parent, match["name"] if match else _name(path), tuple(sorted(one.columns))
        if split in groups.get(key, {}):  # a.jsonl beside a.csv
            key = path.parent, path.name, key[2]
        groups.setdefault(key, {})[split] = path
    for key in [key for key, splits in groups.items() if "train" not in splits]:
        home = next((other for other, splits in groups.items() if other[:2] == key[:2] and "train" in splits), None)
        if home is not None:  # rows to be scored are not learned because they have other columns
            _join(found, groups[home], groups.pop(key), sorted({*seen[groups[home]["train"]].used} - {*key[2]}))
    made = []
    for (parent, name, _), splits in groups.items():
        first = splits.get("train") or next(iter(splits.values()))
        entry: dict[str, Any] = {"task": _from(found, first)}
        match = SPLIT.match(_name(first))
        if len(splits) == 1 and match and match["name"] and not match["mark"]:  # latest.csv is no split of "la"
            name = _name(first)
        called = name or (parent.name if parent != found.folder else found.folder.resolve().name)
        called = re.sub(r"[/\\,]", "-", called).strip() or "task"
        if called != seen[first].name:
            entry["name"] = called
        entry |= {split: _from(found, path) for split, path in splits.items() if path != first}
        if _unnamed(seen[first]):
            labels = list(seen[first].labels)
            from_zero = labels == [str(number) for number in range(len(labels))]
            entry["choices"] = labels if from_zero else {int(label): label for label in labels}
        made.append(Found(entry, seen[first]))
    return made


def _join(found: Draft, splits: dict[str, Path], others: dict[str, Path], lacking: Sequence[str]) -> None:
    """Add splits with other columns to those that they are called after, unless columns are lacking that are used."""
    for split, path in others.items():
        if lacking:
            found.left[_from(found, path)] = f"a split by its name, without {', '.join(map(repr, lacking))}"
        elif split in splits:
            found.left[_from(found, path)] = f"a split by its name, as {splits[split].name} is"
        else:
            splits[split] = path


def _split(word: str) -> str:
    word = word.lower()
    return "train" if word.startswith("train") else "test" if word.startswith("test") else "validation"


def _unnamed(seen: Recognised) -> bool:
    """Whether its labels are numbers that nothing names."""
    return any(not problem.number and "without names" in problem.message for problem in seen.problems)


def _named_apart(tasks: Sequence[Found]) -> list[Found]:
    """The same with names of their own for those that two files would have."""
    taken: set[str] = set()
    made = []
    for one in tasks:
        own = one.seen.name if one.seen else Path(one.entry["task"]).stem
        name = str(one.entry.get("name", own))
        number, apart = 1, name
        while apart in taken:
            number += 1
            apart = f"{name}-{number}"
        taken.add(apart)
        made.append(one if apart == name else replace(one, entry={**one.entry, "name": apart}))
    return made


def _lines(found: Draft, model: str | None) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield from _comment(
        "Written by `loraweave init`: what was found in this folder and how it was understood. Change what is not so. "
        "`loraweave check run.yaml` says what is wrong, `loraweave train run.yaml --dry-run` what it comes to; "
        "docs/runfile.md has every key."
    )
    yield ""
    yield from _base(found, model)
    yield ""
    yield from _comment(
        "How it is adapted: `loraweave methods` lists what there is, and what becomes of each afterwards."
    )
    yield f"method: {DEFAULT_METHOD}"
    yield ""
    yield from _comment(
        "All of them go into one adapter. `loraweave tasks preview FILE` shows what the model reads and learns."
    )
    yield "# chat_template: true         # send the prompts of all tasks through the base's chat template"
    yield "tasks:"
    for task in found.tasks:
        yield from _task(task)
    if found.left:
        yield from ["", *_comment("left out:", "  ")]
        yield from (f"  #   {tame(' '.join(f'{name}: {why}'.split()))}" for name, why in found.left.items())
    if any(problem.number for task in found.tasks if task.seen for problem in task.seen.problems):
        yield ""
        yield from _comment(
            "Some rows cannot be used (see above). error: a run ends with the first of them; skip: they are left out, "
            "counted, and kept in a file."
        )
        yield "on_bad_row: error"
    yield ""
    yield from _mixture(found)
    yield ""
    yield from _comment("Hugging Face's training arguments, by their own names.")
    yield "train:"
    yield "  num_train_epochs: 3"
    yield "  max_length: 512            # tokens of a row; prompts that are longer lose their beginning, which is said"
    yield ""
    yield "seed: 0"
    yield "output: runs/first"


def _base(found: Draft, model: str | None) -> Iterator[str]:
    chosen = model or (f"./{found.bases[0]}" if found.bases else "nano")
    about = "The base: a name on the Hugging Face hub, a folder or a .gguf file."
    if chosen == "nano":
        about += " nano ships with the package: it is quick, and far too small to be of use."
    if model is None and len(found.bases) > 1:
        about += f" This folder also has {', '.join(found.bases[1:])}."
    yield from _comment(f"{about} {{name: ..., quantization: nf4}} holds a large one in 4 bits.")
    yield f"model: {_scalar(chosen)}"


def _task(task: Found) -> Iterator[str]:
    yield ""
    for line in _said(task):
        yield from _comment(line, "  ")
    keys = list(task.entry.items())
    if len(keys) == 1:
        yield f"  - {_scalar(task.entry['task'])}"
        return
    for number, (key, value) in enumerate(keys):
        yield f"  {'-' if number == 0 else ' '} {key}: {_scalar(value)}"


def _said(task: Found) -> Iterator[str]:
    """How a task was understood."""
    if task.seen is None:
        yield "a task in lm-eval's format, as its file says"
        return
    seen = task.seen
    scored = {"acc": "the share of right labels", "bits_per_byte": "bits per byte", "loss": "the loss on its answers"}
    yield f"{seen.kind}, {seen.format}: {seen.rows:,} rows; scored by {scored.get(seen.scored_by, seen.scored_by)}"
    if seen.labels:
        counts = ", ".join(f"{name} {count:,}" for name, count in list(seen.labels.items())[:MOST_SHOWN])
        yield f"labels: {counts}{', ...' if len(seen.labels) > MOST_SHOWN else ''}"
    if _unnamed(seen):
        yield "nothing names these numbers, so the model is asked for the number: write what each means, in this order"
    if seen.prompt:
        yield f"prompt {json.dumps(seen.prompt, ensure_ascii=False)}, answer {json.dumps(seen.completion)}"
    yield from seen.notes
    bad = [problem for problem in seen.problems if problem.number]
    if bad:
        yield f"{'1 row' if len(bad) == 1 else f'{len(bad):,} rows'} cannot be used:"
        yield from (f"  {problem.message.removeprefix(problem.source).strip(', ')}" for problem in bad[:MOST_SHOWN])
        if len(bad) > MOST_SHOWN:
            yield f"  and {len(bad) - MOST_SHOWN:,} more"


def _mixture(found: Draft) -> Iterator[str]:
    rows = [task.seen.rows for task in found.tasks if task.seen is not None]
    yield from _comment(
        "How often each task is drawn: proportional to its rows, equal, capped, by weights, or between the first two by"
        " a temperature (the higher, the more equal)."
    )
    uneven = len(rows) > 1 and max(rows) > UNLIKE * min(rows)
    yield "mixture: {strategy: temperature, temperature: 2}" if uneven else "mixture: proportional"
    yield ""
    yield from _comment(
        "Splits: a task that names no files for them keeps about 10 % of its rows, 500 at most, to be scored on, the "
        "same for every seed, and of the others 5 %, 200 at most, to watch the training with. A task says otherwise by "
        "{task: ..., test: FILE or 0.2, validation: FILE or 0.1}."
    )


def _comment(text: str, indent: str = "") -> list[str]:
    lead = f"{indent}# {' ' * (len(text) - len(text.lstrip()))}"
    plain = tame(" ".join(text.split()))  # YAML takes no codes, in comments neither
    return textwrap.wrap(plain, WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False)


def _scalar(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def check_draft(found: Draft) -> RunConfig:
    """The run file of a draft, read: what `init` writes is one that `train` takes."""
    values: Any = yaml.safe_load(found.text)
    return RunConfig(**values, base_dir=str(found.folder.resolve()))
