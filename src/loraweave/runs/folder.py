"""The folder of a run: what lies where, and what may be put there.

run.yaml            the full configuration
base.json           the base model's name and fingerprint, how it is loaded, and a hash of its tokenizer
data.json           a hash of each task's examples
splits.json         what each task's data were taken for, and which rows choose and are scored
skipped.jsonl       rows that were left out, each with the reason
environment.json    versions, hardware, seed, and the folder that paths started at
mixture.json        what each task got, epoch by epoch together
routing.json        entropy and use of the heads by layer and task at the end, where heads are weighed
gradients.json      how the tasks' gradients agree at the start, in the middle and at the end
metrics.jsonl       loss, loss per task, learning rate, tokens and time, one line per logged step
adapter/            the trained adapter (`model/` for full fine-tuning)
checkpoints/        to resume from
tensorboard/        the same metrics for TensorBoard
summary.json        time, tokens, peak memory, trainable parameters; written last
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from typing_extensions import NotRequired, Required, TypedDict

from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.adapters.config import read_config
from loraweave.adapters.write import BASE_RECORD
from loraweave.bases.quantization import QuantizationName
from loraweave.bases.spec import Attention, BaseNotHereError, BaseSpec, Dtype
from loraweave.data.mixture import Realised
from loraweave.errors import UserError
from loraweave.files import check_links, damage, is_left_over, make_folder, read_json
from loraweave.runs.checkpoints import UNFINISHED, Start, checkpoints_in, newest_whole
from loraweave.runs.config import RunConfig
from loraweave.shapes import read_shaped

_PACKAGES = ("loraweave", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "lm_eval")
_NOT_OF_THE_TRAINING = ("eval", "output", "base_dir")


class RunFolder:
    """Paths of a run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "run.yaml"
        self.base = self.path / BASE_RECORD
        self.data = self.path / "data.json"
        self.splits = self.path / "splits.json"
        self.skipped = self.path / "skipped.jsonl"
        self.environment = self.path / "environment.json"
        self.mixture = self.path / "mixture.json"
        self.routing = self.path / "routing.json"
        self.gradients = self.path / "gradients.json"
        self.metrics = self.path / "metrics.jsonl"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.summary = self.path / "summary.json"

    def read_config(self) -> RunConfig:
        """The run file that the run was made by.

        Its paths start where the folder says, as seen from where it lies now. Where the folder was moved by itself,
        and nothing is there, they start where they did when it was written, if all is there still.

        Raises:
            UserError: as of `RunConfig.load`.
        """
        config = RunConfig.load(self.config)
        if config.lacking() is None or not self.environment.is_file():
            return config
        before = read_json(self.environment).get("base_dir")
        if not isinstance(before, str):
            return config
        there = RunConfig.load(self.config, base_dir=before)
        return config if there.lacking() is not None else there

    def open(self, config: RunConfig, resume: bool) -> Start:
        """Make the folder ready for a run.

        Args:
            config: what is to be run.
            resume: go on with the run that is there, if there is one.

        Returns:
            Where to begin. Newer checkpoints that are torn are removed.

        Raises:
            UserError: the folder holds a run and `resume` is not set, or that run's configuration is another one, or
                files that are no run's; no checkpoint of it is whole; a link in it leads elsewhere; or the folder
                cannot be made.
        """
        if self.config.exists():
            if not resume:
                raise UserError(f"{self.path}: this folder already holds a run; resume it or choose another output")
            if self.summary.exists():
                raise UserError(f"{self.path}: the run in this folder is finished, so there is nothing to resume")
            check_links(self.path)
            changed = self.changed(config)
            if changed:
                raise UserError(f"{self.path}: cannot resume, the configuration differs: {'; '.join(changed)}")
            start = newest_whole(self.checkpoints, bool(config.train.get("load_best_model_at_end")))
            for name in (*start.torn, UNFINISHED):
                shutil.rmtree(self.checkpoints / name, ignore_errors=True)
            return start
        if self.path.is_dir() and not self.is_new:
            raise UserError(f"{self.path}: this folder holds something else than a run; choose another output")
        make_folder(self.path, "the run's folder")
        config.save(self.config)
        return Start()

    def changed(self, config: RunConfig) -> list[str]:
        """What differs between the run that is here and another run file, as of `changed_settings`. Where base and data
        lie does not count once it is on record what they are."""
        old, new = (one.with_paths_from_base().as_dict() for one in (self.read_config(), config))
        for key in ("model", "data_dir") if self.base.is_file() and self.data.is_file() else ():
            old[key] = new[key]
        return changed_settings(old, new)

    @property
    def is_new(self) -> bool:
        """Whether all that will lie in the folder is this run's: it holds nothing yet but what a kill left of us."""
        return not self.path.exists() or (self.path.is_dir() and all(map(is_left_over, self.path.iterdir())))

    def discard_unbegun(self) -> None:
        """Remove the folder of a run that never made a step, so that the same command works once the cause is cured.

        Only for a folder that was new: everything in it goes.
        """
        if not self.metrics.exists() and not checkpoints_in(self.checkpoints) and not self.summary.exists():
            shutil.rmtree(self.path, ignore_errors=True)


class _Summary(TypedDict, total=False):
    """Of summary.json what others read."""

    adapter: Required[Literal["adapter", "model"] | None]
    method: Required[str]
    mixture: Required[list[Realised]]
    learning_rate: float | None
    rank: int | None
    trained_files: dict[str, str]
    trainable_parameters: int
    steps: int
    best_step: int | None
    best_loss: float | None
    seconds: float
    tokens: int
    tokens_per_second: float
    peak_memory: int


_Word = Annotated[str, Field(min_length=1)]


class BaseRecord(TypedDict):
    """Of base.json what others read."""

    name: _Word
    fingerprint: NotRequired[str]
    tokenizer: NotRequired[str]
    dtype: NotRequired[Dtype]
    quantization: NotRequired[QuantizationName]
    attn: NotRequired[Attention]
    revision: NotRequired[_Word]


def read_base_record(folder: Path) -> dict[str, Any]:
    """What the folder of a run or an adapter says of its base; nothing where it does not.

    Raises:
        UserError: the file that says so is broken.
    """
    path = folder / BASE_RECORD
    return read_shaped(path, BaseRecord) if path.is_file() else {}


def recorded_base(folder: Path) -> BaseSpec | None:
    """The base that an adapter's folder names, and how it was loaded; None where it names none.

    It is named by its whole path, which programs that know nothing of runs can load. Where nothing is there any more,
    the run that the folder lies in says by which way it is found.

    Raises:
        UserError: the file that says so is broken.
    """
    if record := read_base_record(folder):
        named = BaseSpec.of_record(record)
        run = RunFolder(folder.absolute().parent)
        moved = Path(named.name).is_absolute() and not Path(named.name).exists()
        if moved and folder.name == run.adapter.name and run.config.is_file():
            return named.renamed(run.read_config().base.name)
        return named
    config = read_config(folder) if (folder / ADAPTER_CONFIG).is_file() else None
    if config is None or not config.base_model_name_or_path:
        return None
    name = str(config.base_model_name_or_path)
    return BaseSpec.of(name, revision=None if Path(name).exists() else config.revision or None)


@contextmanager
def naming_base(folder: Path, given: object = None, option: str = "--base") -> Iterator[None]:
    """Around loading the base that a folder names, unless one was given in its place: where it is not there, UserError
    says by which option to say where it is."""
    try:
        yield
    except BaseNotHereError as error:
        if given is not None:
            raise
        raise UserError(f"{folder}: its base is not here: {error} (say with {option} where it is)") from error


def read_summary(folder: str | Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        UserError: the folder holds no finished run.
    """
    run = RunFolder(folder)
    if not run.summary.is_file():
        check_no_comparison(run.path)
        what = "the run in this folder did not finish" if run.config.exists() else "this folder holds no run"
        raise UserError(f"{run.path}: {what}")
    return read_shaped(run.summary, _Summary)


def check_no_comparison(folder: Path) -> None:
    """Raise `UserError` where a folder holds a comparison, which is several runs; names one."""
    if (folder / "results.json").is_file() and (folder / "runs").is_dir():
        inside = next((folder / "runs").iterdir(), folder / "runs")
        raise UserError(f"{folder} holds a comparison; name one of its runs, such as {inside}")


def check_trained(folder: Path, summary: Mapping[str, Any]) -> None:
    """Raise `UserError` where the files of the adapter, or of the trained model, are not as the run wrote them."""
    found = damage(folder, summary.get("trained_files", {}))
    if found is not None:
        raise UserError(f"{folder}: damaged, {found}")


def next_free(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    first = Path("runs") / name
    number, folder = 1, first
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def changed_settings(old: dict[str, Any], new: dict[str, Any], under: str = "") -> list[str]:
    """What differs between two configurations, in words; what does not touch the training is left out."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        if not under and key in _NOT_OF_THE_TRAINING:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changed_settings(before, after, f"{under}{key}.")
        elif before != after:
            found.append(f"{under}{key} was {json.dumps(before)} and is now {json.dumps(after)}")
    return found


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware and seed: what it takes to run the same thing again.

    A run's own file also has the folder that its paths started at.
    """
    cuda = torch.cuda.is_available()
    return {
        "seed": seed,
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
