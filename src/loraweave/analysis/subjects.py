"""What is given to an analysis: folders of runs, of comparisons, of adapters alone, of fully fine-tuned models."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from typing_extensions import NotRequired, TypedDict

from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.adapters.config import changes_base, read_config
from loraweave.adapters.file import AdapterFile
from loraweave.analysis.full import FullUpdate
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.paths import inside
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import BaseRecord, RunFolder, check_trained, naming_base, read_base_record, read_summary
from loraweave.runs.loading import run_file_of
from loraweave.shapes import read_shaped

_OF_COMPARISON = re.compile(r"(?P<method>[^/]+?)(?P<seed>-seed\d+)(?P<rate>-lr[\d.e+-]+)?")


@dataclass(eq=False)
class AnalysedRun:
    """One run, open for reading.

    Attributes:
        name: unlike the others' names.
        folder: as given.
        update: what it changed.
        method: its name.
        base: the base model's name or folder; None where the adapter does not say.
        base_given: the same where it was named beside the run, in the place of the one that the run names.
        tasks: trained on, in the order of their ids; empty where that is not known.
        config: the run file; None for a bare adapter or checkpoint.
        summary: of the run; empty for a bare adapter or checkpoint.
        notes: what the analysis leaves out, or sees otherwise than one might think.
    """

    name: str
    folder: Path
    update: AdapterFile | FullUpdate
    method: str
    base: str | None
    base_given: str | None = None
    base_fingerprint: str | None = None
    tasks: list[str] = field(default_factory=list)
    config: RunConfig | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def adapter(self) -> AdapterFile | None:
        """The adapter; None for full fine-tuning."""
        return self.update if isinstance(self.update, AdapterFile) else None

    @property
    def weave(self) -> WeaveConfig | None:
        """The adapter's configuration where it is one of this package's."""
        config = self.adapter.config if self.adapter else None
        return config if isinstance(config, WeaveConfig) else None

    @property
    def has_router(self) -> bool:
        """Whether heads are weighed token by token."""
        return self.weave is not None and self.weave.depends_on_input

    @property
    def files(self) -> RunFolder | None:
        """The run's folder; None for a bare adapter or checkpoint."""
        return RunFolder(self.folder) if self.config else None

    def as_dict(self) -> dict[str, Any]:
        """The run's entry in analysis.json."""
        config: Any = self.adapter.config if self.adapter else None
        return {
            "name": self.name,
            "folder": str(self.folder),
            "kind": "adapter" if self.adapter else "full",
            "method": self.method,
            "base": self.base,
            "tasks": self.tasks,
            "seed": self.config.seed if self.config else None,
            "rank": getattr(config, "r", None),
            "num_heads": self.weave.num_heads if self.weave else None,
            "trainable_parameters": self.summary.get("trainable_parameters", self.update.parameters),
            "learning_rate": self.summary.get("learning_rate"),
        }


def open_runs(
    folders: Sequence[Path], full: Path | None = None, base: str | None = None, trust_code: bool = False
) -> list[AnalysedRun]:
    """Open what a person named.

    Args:
        folders: of finished runs, of adapters alone, or of comparisons, which stand for the runs in them.
        full: a fully fine-tuned model to compare with: a run, or a checkpoint of the same base as the others.
        base: name or folder of the base, in the place of the one that the runs name.
        trust_code: run code that comes with a base or a model.

    Raises:
        UserError: nothing there, a run that did not finish or trained nothing, a folder named twice.
    """
    listed = [run for folder in folders for run in _expanded(folder)]
    paths = [path.resolve() for path in [*listed, *([full] if full else [])]]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path}: named twice; every run is analysed once")
    names = _names(paths)
    runs = [_open(path, name, base, trust_code) for path, name in zip(listed, names, strict=False)]
    if full is not None:
        runs.append(_open_full(full, names[-1], runs, base, trust_code))
    return runs


class _Finished(TypedDict):
    adapter: NotRequired[str | None]


class _Comparison(TypedDict):
    """Of a comparison's results what says where its runs are."""

    runs: NotRequired[list[_Finished]]


def _expanded(folder: Path) -> list[Path]:
    """The runs in the table of a comparison's folder, or the folder itself."""
    by_itself = RunFolder(folder).config.exists() or (folder / ADAPTER_CONFIG).is_file()  # and was evaluated
    if by_itself or not (folder / "results.json").is_file():
        return [folder]
    record = read_shaped(folder / "results.json", _Comparison)
    named = [run["adapter"] for run in record.get("runs", []) if run.get("adapter")]
    runs = [inside(folder, adapter, folder / "results.json").parent for adapter in named]
    if not runs:
        raise UserError(f"{folder}: no run of this comparison is finished")
    missing = [run for run in runs if not run.is_dir()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of its {len(runs)} finished runs are not here, {missing[0].name} first: copy "
            "their folders from where they were made, or name the folders of those that are here"
        )
    return runs


def _names(paths: Sequence[Path]) -> list[str]:
    """What tells the paths apart: as many of their last parts as that takes, without those that all share; "adapter"
    alone tells nothing. Of a comparison's runs the method, with seed and learning rate where these are needed."""
    parts = [path.parts[:-1] if path.name in ("adapter", "model") else path.parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    else:
        return [str(path) for path in paths]
    while length > 1 and len({name.rpartition("/")[2] for name in names}) == 1:
        names = [name.rpartition("/")[0] for name in names]
    found = [_OF_COMPARISON.fullmatch(name) for name in names]
    for wanted in (("method",), ("method", "seed"), ("method", "rate")):
        short = ["".join(each[part] or "" for part in wanted) for each in found if each is not None]
        if len(names) > 1 and len(short) == len(names) == len(set(short)):
            return short
    return names


def _open(folder: Path, name: str, base: str | None, trust_code: bool) -> AnalysedRun:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is empty")
    if not RunFolder(folder).config.exists():
        return _open_adapter(folder, name, base)
    files, summary, config = RunFolder(folder), read_summary(folder), run_file_of(RunFolder(folder), None, trust_code)
    check_trained(files.path, summary)
    if summary["adapter"] is None:
        raise UserError(f"{folder}: the run is of the untouched base, in which there is nothing to analyse")
    if base is not None:
        config = config.model_copy(update={"model": config.base.renamed(base)})
    update: AdapterFile | FullUpdate
    if summary["adapter"] == files.model.name:
        with naming_base(folder, base):
            update = FullUpdate(files.model, config.base, trust_code)
    else:
        update = AdapterFile(files.adapter)
    tasks = [entry["task"] for entry in summary.get("mixture", [])]
    return AnalysedRun(
        name=name,
        folder=folder,
        update=update,
        method=summary["method"],
        base=config.base.name,
        base_given=base,
        base_fingerprint=read_shaped(files.base, BaseRecord).get("fingerprint"),
        tasks=tasks,
        config=config,
        summary=summary,
        notes=_notes(name, update),
    )


def _open_adapter(folder: Path, name: str, base: str | None) -> AnalysedRun:
    if (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: a whole model; compare with it by --full, beside a run or an adapter of its base")
    config = read_config(folder)
    update = AdapterFile(folder)
    told = read_base_record(folder)
    return AnalysedRun(
        name=name,
        folder=folder,
        update=update,
        method=_method_of(config),
        base=base or told.get("name", config.base_model_name_or_path),
        base_given=base,
        base_fingerprint=told.get("fingerprint"),
        tasks=list(getattr(config, "task_names", None) or ()),
        notes=_notes(name, update),
    )


def _open_full(
    folder: Path, name: str, others: Sequence[AnalysedRun], base: str | None, trust_code: bool
) -> AnalysedRun:
    if RunFolder(folder).config.exists():
        run = _open(folder, name, base, trust_code)
        if run.adapter is not None:
            raise UserError(f"{folder}: --full wants a run of full fine-tuning, this one is of {run.method}")
        return run
    before = base or next((run.base for run in others if run.base), None)
    if before is None:
        raise UserError(
            f"{folder}: what it was fine-tuned from is not known, since no other run names its base: say it with --base"
        )
    with naming_base(folder, base):
        update = FullUpdate(folder, before, trust_code)
    return AnalysedRun(name, folder, update, "full", before, notes=_notes(name, update))


def _method_of(config: PeftConfig) -> str:
    if isinstance(config, WeaveConfig):
        return config.method
    assert isinstance(config, LoraConfig)
    return "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"


def _notes(name: str, update: AdapterFile | FullUpdate) -> list[str]:
    if isinstance(update, FullUpdate):
        missing, others = update.missing, update.others
        said = [f"{name}: {len(missing)} linear layers not found by name, {missing[0]} first"] if missing else []
        if others:
            said.append(f"{name}: {len(others)} weights that are of no linear layer are left out, {others[0]} first")
        return said
    notes, config = [], update.config
    skipped = update.others
    if isinstance(config, LoraConfig):
        if config.use_dora:
            skipped = [key for key in skipped if "lora_magnitude_vector" not in key]
            notes.append(
                f"{name}: DoRA also rescales every row of the weight, which is no low-rank change; "
                "what is shown is its low-rank part alone"
            )
        if changes_base(config):
            start = str(config.init_lora_weights).lower()
            notes.append(
                f"{name}: its start ({start}) changed the base, so what is shown is the adapter whole and not what "
                "training changed"
            )
    if skipped:
        notes.append(f"{name}: {len(skipped)} tensors beside the low-rank updates are left out, {skipped[0]} first")
    if isinstance(config, WeaveConfig) and config.depends_on_input:
        notes.append(f"{name}: its update depends on the input; it is shown at the mean weights of its heads")
    return notes
