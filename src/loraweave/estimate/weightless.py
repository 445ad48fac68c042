"""What can be known of a base and of a method on it without weights: sizes, tokenizer, adapted layers."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.adapters.tensors import trained_numbers
from loraweave.bases import BaseSpec, empty_base, load_tokenizer, resolve_base
from loraweave.bases.load import has_tokenizer
from loraweave.errors import UserError
from loraweave.runs.adapting import adapted
from loraweave.runs.resolve import ResolvedRun
from loraweave.runs.settings import ONLY
from loraweave.tasks.outline import nothing_downloaded
from loraweave.training.auxiliary import Auxiliary

SHAPES = Path(__file__).parents[1] / "bases" / "shapes"
"""Configurations of some public models, as far as sizes go, for where the hub is out of reach."""


def sized_base(base: BaseSpec) -> tuple[PreTrainedModel, bool]:
    """The base on the meta device, and whether its sizes are those that ship."""
    try:
        return empty_base(base), False
    except UserError as error:
        if (SHAPES / base.name / "config.json").is_file():
            return empty_base(SHAPES / base.name), True
        if Path(base.name).exists() or Path(base.name).is_absolute():
            raise
        more = "no more than its config.json is needed for this: give a folder that holds one"
        raise type(error)(f"{error}; {more}") from error


@dataclass(frozen=True)
class Injected:
    """A method on a base.

    Attributes:
        layers: names of adapted layers, and how many of each.
        trainable: numbers that are trained.
        config: of the adapter, as it lies on the base; None without one.
    """

    layers: dict[str, int]
    trainable: int
    config: PeftConfig | None = None


def injected(run: ResolvedRun, base: PreTrainedModel, names: list[str]) -> Injected:
    """What is adapted and trained, counted on the injected model."""
    if run.method.method.trains == "nothing":
        return Injected({}, 0)
    only = run.config.train.get(ONLY)
    with torch.device("meta"), adapted(base, run.method, names, run.config.seed, keep_base=False, only=only) as model:
        Auxiliary(model, run.method.losses, names, accelerator=None).release()  # refuses what has no meaning
        adapters = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
        # Fused experts are weights of one module; a router is a module with one weight.
        weights = {name: getattr(module, "parameter_name", "weight") for name, module in adapters.items()}
        layers = Counter(name.rpartition(".")[2] if own == "weight" else str(own) for name, own in weights.items())
        trainable = sum(trained_numbers(model).values())
        return Injected(dict(layers), trainable, model.active_peft_config if isinstance(model, PeftModel) else None)


def tokenizer_at_hand(base: BaseSpec) -> PreTrainedTokenizerBase | None:
    """The base's tokenizer, if it is at hand; UserError for one in a folder that a run could not use."""
    with nothing_downloaded():
        try:
            return load_tokenizer(base)
        except UserError:
            if has_tokenizer(resolve_base(base)) or Path(resolve_base(base)).is_file():
                raise
            return None
