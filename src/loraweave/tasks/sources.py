"""Where a task's rows come from: a file, several by a pattern, a folder of `save_to_disk`, a data set of the hub."""

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loraweave.amounts import listed
from loraweave.errors import UserError, first_line
from loraweave.files import read_json
from loraweave.paths import inside, user_path
from loraweave.tasks.arrow_rows import of_table
from loraweave.tasks.files import is_data, parted, read_rows
from loraweave.tasks.rows import BadRows, FileRows, numbered_alike
from loraweave.tasks.spec import SplitName

SPLITS = {
    "training": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
"""What splits of a data set are called."""

YAML_SUFFIXES = (".yaml", ".yml")
"""Of task files in lm-eval's format."""


@dataclass(frozen=True)
class Source:
    """Rows by split, each from one file or several.

    Attributes:
        name: a task of it is called so where it is given no name.
        where: the path, pattern or name, for people.
        splits: `training`, and `validation` and `test` where a data set has its own. The number of a label stands for
            the same name in all of them.
    """

    name: str
    where: str
    splits: dict[str, list[FileRows]]

    @property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the names of labels in the order of their numbers."""
        found: dict[str, list[str]] = {}
        for part in (part for parts in self.splits.values() for part in parts):
            found = part.label_names | found
        return found


def is_source(written: str, base: Path) -> bool:
    """Whether what a person wrote for a task names data, and no task of lm-eval.

    A name with one slash that is nowhere on the disk is a data set of the hub, as `datasets` has it.
    """
    if Path(written).suffix in YAML_SUFFIXES:
        return False
    if is_data(written) or _is_pattern(written, base) or _folder(written, base) is not None:
        return True
    return _is_hub_name(written, base)


def is_path(written: str) -> bool:
    """Whether what a person wrote is a path by its looks, and no name of lm-eval's or the hub's."""
    known = is_data(written) or Path(written).suffix in YAML_SUFFIXES
    return known or Path(written).is_absolute() or written.startswith((".", "~"))


def read_source(
    written: str,
    base: Path,
    bad: BadRows,
    subset: str | None = None,
    split: str | Mapping[SplitName, str] | None = None,
) -> Source:
    """The rows that a path, a pattern of paths, a folder of `save_to_disk` or a hub name stands for.

    Args:
        written: relative paths start at `base`.
        bad: takes the rows that cannot be read.
        subset: of a data set of the hub: the name of one of its configurations.
        split: of a data set with splits: what the one to learn is called in it; or, by `train`, `validation` and
            `test`, what each of them is. The others are known by their usual names.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    named: Mapping[SplitName, str] = {"train": split} if isinstance(split, str) else split or {}
    found = _source(written, base, bad, subset, named)
    names = found.label_names
    splits = {split: [numbered_alike(part, names) for part in parts] for split, parts in found.splits.items()}
    return replace(found, splits=splits)


def _source(written: str, base: Path, bad: BadRows, subset: str | None, named: Mapping[SplitName, str]) -> Source:
    """`read_source` with the rows as they were read; `named`: splits by `train`, `validation` and `test`."""
    folder = _folder(written, base)
    if subset is not None and (folder is not None or not _is_hub_name(written, base)):
        raise UserError(f"{written}: 'subset' is for data sets of the hub")
    if folder is not None:
        return Source(folder.resolve().name, str(folder), _saved(folder, named))
    if named and not _is_hub_name(written, base):
        raise UserError(f"{written}: 'split' is for data sets with splits, of the hub or of `save_to_disk`")
    if _is_pattern(written, base):
        files = _matching(written, base)
        return Source(_name_of_pattern(written, base), str(user_path(written, base)), {"training": _all(files, bad)})
    if _is_hub_name(written, base):
        name = written if subset is None else f"{written}, {subset}"
        splits = _by_split(_downloaded(written, subset), name, "hub data set", named)
        return Source(written.rpartition("/")[2], name, splits)
    path = user_path(written, base)
    return Source(parted(path)[0], str(path), {"training": [read_rows(path, bad)]})


def read_held_out(written: str, base: Path, bad: BadRows, label_names: Mapping[str, list[str]]) -> list[FileRows]:
    """The rows of what is named to validate on or to score with; as of `read_source`, where there is one split.
    `label_names`: of the rows that are learned, by which these are numbered too."""
    splits = read_source(written, base, bad).splits
    if len(splits) > 1:
        raise UserError(f"{user_path(written, base)}: holds the splits {', '.join(splits)}, and one is wanted here")
    return [numbered_alike(part, label_names) for part in next(iter(splits.values()))]


def _folder(written: str, base: Path) -> Path | None:
    """The folder of that name, if there is one."""
    path = user_path(written, base)
    return path if ("/" in written or "\\" in written or is_saved(path)) and path.is_dir() else None


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` has written."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _is_pattern(written: str, base: Path) -> bool:
    return glob.has_magic(written) and not user_path(written, base).exists()


def _is_hub_name(written: str, base: Path) -> bool:
    owner, slash, name = written.partition("/")
    plain = all(
        part and part[0].isalnum() and part.replace("-", "").replace("_", "").replace(".", "").isalnum()
        for part in (owner, name)
    )
    return bool(slash) and plain and not is_data(written) and not (base / owner).is_dir()


def matching(pattern: str, base: Path) -> list[Path]:
    """What a pattern matches that starts in a folder, whose own name is none."""
    return sorted(map(Path, glob.glob(str(user_path(pattern, glob.escape(str(base)))), recursive=True)))


def _matching(pattern: str, base: Path) -> list[Path]:
    whole = user_path(pattern, base)
    found = [path for path in matching(pattern, base) if path.is_file()]
    if not found:
        raise UserError(f"{whole}: no file matches this pattern")
    other = next((path for path in found if not is_data(path)), None)
    if other is not None:
        raise UserError(f"{whole}: matches {other.name}, which is no data file: write a pattern that leaves it out")
    return found


def _name_of_pattern(pattern: str, base: Path) -> str:
    """`data/tickets-*.jsonl` is called tickets, `data/*.jsonl` data."""
    whole = user_path(pattern, base)
    before = whole.name[: min((whole.name.index(mark) for mark in "*?[" if mark in whole.name), default=None)]
    plain = [part for part in whole.parent.resolve().parts if not glob.has_magic(part)]
    return before.rstrip("-_. ") or (plain[-1] if plain else "") or "data"


def _all(files: list[Path], bad: BadRows) -> list[FileRows]:
    parts = [read_rows(path, bad) for path in files]
    splits = [_split_of(path) for path in files]
    for part, split in zip(parts, splits, strict=True):
        if "training" in splits and split not in (None, "training"):
            part.notes.append("the pattern takes it with the rows to learn, though it is called like another split")
    return parts


def _split_of(path: Path) -> str | None:
    """The split that a file is called after, as test-00000-of-00001.parquet is."""
    words = set(re.split(r"[^a-z]+", parted(path)[0].lower()))
    return next((split for split, names in SPLITS.items() if words & {*names}), None)


def _saved(folder: Path, named: Mapping[SplitName, str]) -> dict[str, list[FileRows]]:
    """The splits of a folder that `save_to_disk` has written."""
    import datasets

    if not is_saved(folder):
        raise no_data_set(folder)
    _check_parts(folder)
    try:
        return _by_split(datasets.load_from_disk(str(folder)), str(folder), "Arrow folder", named)
    except UserError:
        raise
    except Exception as error:  # damaged files end in whatever they lead to
        raise UserError(f"{folder}: not a whole data set of `datasets`: {first_line(error)}") from error


def _check_parts(folder: Path) -> None:
    """Raise UserError where a saved data set names a split or a file that lies elsewhere."""
    parts, splits = [folder], folder / "dataset_dict.json"
    if splits.is_file():
        named = read_json(splits).get("splits")
        parts = [inside(folder, str(name), splits) for name in named] if isinstance(named, list) else []
    for state in (part / "state.json" for part in parts):
        files = read_json(state).get("_data_files") if state.is_file() else None
        for file in files if isinstance(files, list) else ():
            inside(state.parent, str(file.get("filename") if isinstance(file, dict) else file), state)


def no_data_set(folder: Path) -> UserError:
    """What to say of a folder that is none of `save_to_disk`."""
    data = [path for path in sorted(folder.iterdir()) if is_data(path)]
    some = next((path for path in data if path.name.startswith("train")), data[0] if data else None)
    begin = "train" if some and some.name.startswith("train") else ""
    pattern = f"; for the files in it write a pattern, such as {folder.name}/{begin}*{some.suffix}" if some else ""
    return UserError(f"{folder}: a folder that `datasets` did not save (save_to_disk){pattern}")


def _downloaded(name: str, subset: str | None) -> Any:
    """A data set of the hub. Of code that may lie beside it, `datasets` runs none."""
    import datasets

    try:
        return datasets.load_dataset(name, subset)
    except Exception as error:  # the hub's client and the readers have errors of their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "Config name is missing" in reason or "BuilderConfig" in reason:
            raise UserError(f"the data set {name!r} of the hub: say which part of it, as 'subset': {reason}") from error
        raise UserError(
            f"{name!r} is no file here, and as a data set of the hub it must be downloaded once, which fails: {reason}"
        ) from error


def _by_split(data: Any, source: str, kind: str, named: Mapping[SplitName, str]) -> dict[str, list[FileRows]]:
    """The splits of a data set: those that are named by `train`, `validation` and `test`, the others by usual names."""
    if not isinstance(data, Mapping):
        if named:
            raise UserError(f"{source}: 'split' names {listed(named.values())}, and it has no splits")
        return {"training": [of_table(data.with_format("arrow")[:], source, kind)]}
    there = ", ".join(map(repr, data))
    lacking = [name for name in named.values() if name not in data]
    if lacking:
        raise UserError(f"{source}: no split {lacking[0]!r} among {there}")
    called = {"training" if split == "train" else split: name for split, name in named.items()}
    free = [name for name in data if name not in called.values()]
    for split, usual in SPLITS.items():
        if split not in called and (name := next((name for name in usual if name in free), None)):
            called[split] = name
    if len(data) == 1 and not named:
        called = {"training": next(iter(data))}
    if "training" not in called:
        raise UserError(f"{source}: no split 'train' among {there}; name one as 'split'")
    found = {
        split: [of_table(data[called[split]].with_format("arrow")[:], f"{source}, {called[split]}", kind)]
        for split in SPLITS
        if split in called
    }
    unread = [repr(name) for name in data if name not in called.values()]
    if unread:
        found["training"][0].notes.append(f"splits that are not read: {listed(unread)}")
    return found
