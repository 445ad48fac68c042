"""What is to be exported: a finished run or an adapter's folder, the base that it belongs to and the tasks it knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from loraweave.adapters.config import beyond_plain, tokenizer_differences
from loraweave.adapters.file import AdapterFile
from loraweave.bases import Base, BaseSpec, empty_base, fingerprint, load_base, resolve_base
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.paths import whole_name
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import (
    RunFolder,
    check_no_comparison,
    check_trained,
    naming_base,
    read_base_record,
    read_summary,
    recorded_base,
)
from loraweave.runs.loading import run_file_of, tasks_of
from loraweave.tasks import Task


@dataclass(frozen=True)
class Source:
    """An adapter, and what is known of where it comes from.

    Attributes:
        folder: as named.
        adapter: its files, opened and checked.
        spec: the base, and how it is loaded. base_name: its name as it was written, which may be "nano".
        base_given: whether the base was named beside the adapter, and not by it.
        fingerprint: of the base that it was trained on; None where that is not known.
        config: the run file; None for an adapter without a run.
        trust_code: run functions that its task files name, and code that comes with its base.
        data_dir: where its data are now; None where they were.
    """

    folder: Path
    adapter: AdapterFile
    spec: BaseSpec
    base_name: str
    base_given: bool
    fingerprint: str | None
    config: RunConfig | None
    trust_code: bool = False
    data_dir: str | Path | None = None

    @property
    def base(self) -> str:
        """The base's name, folder or file."""
        return self.spec.name

    @property
    def method(self) -> str:
        """The method's name."""
        config: Any = self.adapter.config
        if isinstance(config, WeaveConfig):
            return config.method
        return self.config.method_name if self.config is not None else "dora" if config.use_dora else "lora"

    @property
    def routed(self) -> bool:
        """Whether its heads are weighed by the input, so that it is no fixed change of the weights."""
        config = self.adapter.config
        return isinstance(config, WeaveConfig) and config.depends_on_input

    @property
    def task_names(self) -> list[str]:
        """The tasks that it was trained on, as far as its files say."""
        return list(getattr(self.adapter.config, "task_names", None) or ())

    @property
    def unfixed(self) -> str | None:
        """What in it is more than a change of linear layers' weights by a product of small factors; None if nothing."""
        config: Any = self.adapter.config
        if isinstance(config, LoraConfig) and config.use_dora:
            return "DoRA rescales the rows of the weights, which is no low-rank update"
        if whole := list(config.modules_to_save or ()):
            return f"modules_to_save ({', '.join(whole)}) were trained whole"
        if getattr(config, "bias", "none") != "none":
            return f"biases of the base were trained (bias={config.bias!r})"
        if isinstance(config, LoraConfig) and (odd := beyond_plain(config)) is not None:
            return f"{odd} makes it more than two factors for every layer"
        # PEFT saves a vocabulary layer that is adapted with the base's own weight.
        if others := [name for name in self.adapter.others if not name.endswith(".base_layer.weight")]:
            return f"{others[0]} is no low-rank update of a linear layer"
        return None

    def check_layers(self) -> None:
        """Raise UserError if an update lies beside a whole block of the base, where there is no weight to change."""
        layers = dict(empty_base(self.spec).named_modules())
        for path in self.adapter.sizes:
            if path in layers and not isinstance(layers[path], (nn.Linear, Conv1D)):
                raise UserError(
                    f"{self.adapter.folder}: an update of the method {self.method} lies beside the whole block {path} "
                    f"({type(layers[path]).__name__}), so it changes no weight: there is nothing to export, use it as "
                    "it is"
                )

    def load_base(self, dtype: str) -> Base:
        """Its base; a dtype as of `bases.load_base`.

        Raises:
            UserError: it cannot be loaded, or it is another one than the adapter was trained on.
        """
        with naming_base(self.folder, self.base_given or None):
            model, tokenizer = load_base(self.spec, dtype)
        if not self.base_given and self.fingerprint is not None and fingerprint(model) != self.fingerprint:
            raise UserError(
                f"{self.base}: this is not the base that {self.folder} was trained on (fingerprint "
                f"{fingerprint(model)}, not {self.fingerprint}); if it is right all the same, name it with --base"
            )
        return model, tokenizer

    def tokenizer_note(self, tokenizer: PreTrainedTokenizerBase, inside: bool) -> list[str]:
        """What a person should know where another tokenizer than the base's lies beside the adapter; `inside`: what is
        written has the base's within one file."""
        if not (other := tokenizer_differences(self.adapter.folder, tokenizer)):
            return []
        cure = "save the base with that and name it with --base" if inside else "copy that over it"
        return [
            f"the tokenizer in {self.adapter.folder} has {other} than the base's, which was written: if the adapter "
            f"was trained with its own, {cure}"
        ]

    def load_tasks(self) -> dict[str, Task]:
        """The run's tasks by name.

        Raises:
            UserError: there is no run, or a task cannot be loaded.
        """
        if self.config is None:
            raise UserError(f"{self.folder}: an adapter without its run, so the data of its tasks is not known")
        return {task.name: task for task in tasks_of(RunFolder(self.folder), self.config, self.data_dir)}


def open_source(
    folder: str | Path, base: str | None = None, trust_code: bool = False, data_dir: str | Path | None = None
) -> Source:
    """The adapter in a run's folder, or in a folder of its own.

    Args:
        folder: of a finished run, or written by `save_pretrained`.
        base: to take in the place of the one that the folder names.
        trust_code: run functions that its task files name, and code that comes with its base.
        data_dir: where a run's task and data files are now, by the paths that they had from its run file's folder.

    Raises:
        UserError: there is no adapter, a broken one, or nobody says which base it belongs to.
    """
    folder = Path(folder)
    check_no_comparison(folder)
    run, config = RunFolder(folder), None
    at = folder
    if run.config.is_file():
        summary = read_summary(folder)
        check_trained(folder, summary)
        kind = summary["adapter"]
        if kind is None:
            raise UserError(f"{folder}: nothing was trained in this run, so there is nothing to export")
        if kind == run.model.name:
            raise UserError(f"{folder}: trained whole, without an adapter: {run.model} is a full model already")
        config = run_file_of(run, data_dir, trust_code)
        at = run.adapter
    elif data_dir is not None:
        raise UserError(f"{folder}: data_dir is for a run, and this is none: its tasks' data are not known")
    adapter = AdapterFile(at)
    adapter.check_values()
    spec = BaseSpec.of(base) if base is not None else config.base if config is not None else recorded_base(at)
    if spec is None:
        raise UserError(f"{at}: nothing here says which base the adapter belongs to; name it with --base")
    name = whole_name(spec.name)
    with naming_base(folder, base):
        spec = BaseSpec.of(spec, trust_code, name=whole_name(resolve_base(spec)))
    known = read_base_record(at).get("fingerprint")
    return Source(folder, adapter, spec, name, base is not None, known, config, trust_code, data_dir)
