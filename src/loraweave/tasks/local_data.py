"""An lm-eval task whose data are local files, read by us: errors name the line, and no cache is written.

Everything else is lm-eval's own `ConfigurableTask`, whose `download` is meant to be overridden. Files that are more
than plain JSON, CSV or Parquet (globs, URLs, archives, lines of text, Arrow) go through `datasets` as usual.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from loraweave.errors import UserError, check_none, nearest
from loraweave.tasks.fields import check_task_document, field_problems
from loraweave.tasks.files import JSON_SUFFIXES, existing, read_rows
from loraweave.tasks.rows import BadRows, FileRows
from loraweave.tasks.tables import SEPARATORS

_TYPED = (*JSON_SUFFIXES, ".parquet")
READ_HERE = {"json": _TYPED, "parquet": _TYPED, "csv": tuple(SEPARATORS)}
"""Formats, as `datasets` calls them, and the files of each that are read by us."""
SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")


class GuardedTask(ConfigurableTask):
    """An lm-eval task whose data `datasets` reads. A document that lacks what the templates print is refused when its
    prompt is made, be it for training, for evaluation or as a solved example.

    Raises:
        UserError: by `doc_to_text`, for a document that lacks it.
    """

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        check_task_document(self.config, doc, f"{self.config.metadata['config_source']}, a document of its data")
        return super().doc_to_text(doc, doc_to_text)


class LocalTask(ConfigurableTask):
    """`dataset_kwargs.data_files` must be a mapping from split to a list of absolute paths (`resolve_data` makes it).

    Raises:
        UserError: on construction: a file is missing or unreadable, rows of it are, or lack a field that a template
            prints (all of them are named), a split that the task names is not there, or training and evaluation read
            the same file.
    """

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        files: Mapping[str, list[str]] = (dataset_kwargs or {})["data_files"]
        source = self.config.metadata["config_source"]
        wanted = {getattr(self.config, key): key for key in SPLIT_KEYS if getattr(self.config, key) is not None}
        for split, key in wanted.items():
            if split not in files:
                raise UserError(
                    f"{source}: {key} is {split!r}, but data_files has {', '.join(map(repr, files))}"
                    f"{nearest(split, files)}"
                )
        evaluated = self.config.test_split or self.config.validation_split
        train = self.config.training_split
        if train is not None and evaluated is not None and set(files[train]) & set(files[evaluated]):
            raise UserError(f"{source}: the splits {train!r} and {evaluated!r} read the same file: {files[train][0]}")
        self.sources: dict[str, list[FileRows]] = {}
        bad, problems = BadRows(keep=True), list[str]()
        for split in wanted:
            self.sources[split] = [read_rows(Path(path), bad) for path in files[split]]
            if self.config.process_docs is None:  # else the templates see other fields than the file has
                for rows in self.sources[split]:
                    problems += field_problems(self.config, rows)
        check_none([*(row.message for row in bad.found), *problems])
        every = [part for parts in self.sources.values() for part in parts]
        names = list(dict.fromkeys(name for part in every for row in part.rows for name in row))
        self.dataset = datasets.DatasetDict({split: _dataset(parts, names) for split, parts in self.sources.items()})

    @property
    def scored_files(self) -> set[Path]:
        """The files that it is evaluated on."""
        return {
            Path(part.source).resolve() for part in self.sources[self.config.test_split or self.config.validation_split]
        }

    def validation_docs(self) -> Any:
        return self._some(super().validation_docs(), self.config.validation_split)

    def test_docs(self) -> Any:
        return self._some(super().test_docs(), self.config.test_split)

    def _some(self, docs: Any, split: str | None) -> Any:
        if docs is not None and len(docs) == 0:
            source = self.config.metadata["config_source"]
            raise UserError(f"{source}: process_docs leaves nothing of the split {split!r}")
        return docs

    def place(self, split: str, index: int) -> str:
        """Where document `index` of a split stands, for a message."""
        if self.config.process_docs is None:
            for rows in self.sources[split]:
                if index < len(rows.rows):
                    return rows.place(index)
                index -= len(rows.rows)
        return f"{self.config.metadata['config_source']}, document {index + 1} of the split {split!r}"


def resolve_data(config: dict[str, Any], yaml_folder: Path, data_dir: Path | None) -> bool:
    """Make the relative data paths of a task configuration absolute, in place; True if `LocalTask` can read them.

    A path is looked for in `data_dir` where one is given, then in the YAML's own folder.

    Raises:
        UserError: a plain file is in neither folder.
    """
    folders = ([data_dir] if data_dir is not None else []) + [yaml_folder]
    path = config.get("dataset_path")
    if isinstance(path, str) and "/" in path and not Path(path).is_absolute():
        local = [folder / path for folder in folders if (folder / path).exists()]
        config["dataset_path"] = str(local[0].resolve()) if local else path
    kwargs = dict(config.get("dataset_kwargs") or {})
    if path not in ("json", "parquet", "csv", "text", "arrow") or "data_files" not in kwargs:
        return False
    inner = str(kwargs.pop("data_dir", ""))
    files = _by_split(kwargs["data_files"])
    everything = [name for names in files.values() for name in names]
    plain = path in READ_HERE and set(kwargs) == {"data_files"}
    plain = plain and all(name.endswith(READ_HERE[path]) and not _is_pattern(name) for name in everything)
    kwargs["data_files"] = {
        split: [_absolute(Path(inner) / name, folders, plain) if "://" not in name else name for name in names]
        for split, names in files.items()
    }
    if path == "csv" and not plain and not {"na_values", "keep_default_na", "na_filter"} & set(kwargs):
        # For pandas words such as NA and null are empty cells.
        kwargs |= {"keep_default_na": False, "na_values": [""]}
    config["dataset_kwargs"] = kwargs
    return plain


def _by_split(data_files: Any) -> dict[str, list[str]]:
    """`datasets` takes one path, a list, or either per split; a path without a split is the split `train`."""
    if not isinstance(data_files, Mapping):
        data_files = {"train": data_files}
    return {str(split): [names] if isinstance(names, str) else list(names) for split, names in data_files.items()}


def _is_pattern(name: str) -> bool:
    return "://" in name or any(letter in name for letter in "*?[")


def _absolute(path: Path, folders: list[Path], plain: bool) -> str:
    for folder in folders:
        if (folder / path).exists():
            return str((folder / path).resolve())
    if plain:
        try:
            existing(folders[0] / path, "data file")
        except UserError as error:
            also = f"; nor in {folders[1]}" if len(folders) > 1 else "; set data_dir to the folder that holds it"
            raise UserError(f"{error}{also}") from None
    return str((folders[0] / path).absolute())


def _dataset(parts: list[FileRows], names: list[str]) -> datasets.Dataset:
    """One split, with the fields of all splits. A field that a row lacks is None there, as `datasets` has it."""
    columns = {name: [row.get(name) for part in parts for row in part.rows] for name in names}
    return datasets.Dataset.from_dict(columns, on_mixed_types="use_json")  # as `datasets` reads JSON Lines
