"""Fill the adapter that a model has with the tensors of one in a folder, after all of them were found to fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from loraweave.adapters.config import NAME, check_lost_start
from loraweave.adapters.file import VOCABULARY, AdapterFile, Size
from loraweave.bases import check_fingerprint
from loraweave.bases.identity import own_parameters
from loraweave.config import WeaveConfig
from loraweave.errors import UserError, in_a_line
from loraweave.runs.folder import read_base_record
from loraweave.tuner import WeaveLinear


def adapted_layers(model: PeftModel) -> dict[str, Size]:
    """The sizes of the adapted linear layers, by path in the base."""
    config: Any = model.active_peft_config
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, WeaveLinear):
            size = Size(module.out_features, module.in_features)
        elif isinstance(module, LoraLayer) and "default" in module.lora_A and not config.target_parameters:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            if A.ndim != 2:  # a convolution
                continue
            size = Size(B.shape[0], A.shape[1])
        else:
            continue
        found[path.removeprefix("base_model.model.")] = size
    return found


def fill(model: PeftModel, adapter: AdapterFile) -> None:
    """Fill the adapter's tensors from the file, after comparing what is asked for with what is there."""
    asked = get_peft_model_state_dict(model, save_embedding_layers=False)
    there = adapter.names
    if missing := [name for name in asked if name not in there]:
        raise UserError(f"{adapter.path}: {missing[0]} is missing, which its configuration asks for in this base")
    for name, shape in there.items():
        if name in asked and tuple(asked[name].shape) != shape:
            raise UserError(f"{adapter.path}: {name} is {shape}, in the base it should be {tuple(asked[name].shape)}")
        if name not in asked and VOCABULARY.isdisjoint(name.split(".")):
            raise UserError(f"{adapter.path}: {name} is unexpected: nothing in this base takes it")
    own: dict[str, Tensor] = {}
    if not there.keys() <= asked.keys():  # PEFT saves the base's own vocabulary too, and loads it over the base's
        own = {n: w for n, w in own_parameters(model).items() if not VOCABULARY.isdisjoint(n.split("."))}
    kept = {name: weight.detach().to("cpu", copy=True) for name, weight in own.items()}
    before = getattr(model, "weights_before", {})
    model.weights_before = kept | before
    conversions = getattr(model.get_base_model(), "_checkpoint_conversion_mapping", {})
    try:
        model.load_adapter(str(adapter.folder), "default", key_mapping=conversions)
    except Exception as error:  # PEFT, torch and safetensors raise what they like, and the file is the cause
        raise UserError(f"{adapter.folder}: the adapter cannot be loaded: {in_a_line(error)}") from error
    changed = {name: weight for name, weight in kept.items() if not torch.equal(weight, own[name].detach().cpu())}
    model.weights_before = changed | before


def check_start(folder: Path, config: PeftConfig, task_names: Sequence[str], base: PreTrainedModel) -> None:
    """Compare an adapter that is to be trained on with the run's tasks and its base, which may be on the meta device.

    Raises:
        UserError: it tells other tasks apart, or was trained on another base, or on one that its start had changed for
            good.
    """
    check_lost_start(config, f"{folder}: {NAME}")
    if isinstance(config, WeaveConfig) and config.needs_tasks and config.task_names != list(task_names):
        raise UserError(
            f"{folder}: this adapter has tensors for the tasks {', '.join(config.task_names or ())}, in this order; "
            f"the run's tasks are {', '.join(task_names)}"
        )
    recorded = read_base_record(folder)
    if "fingerprint" in recorded and base.device.type != "meta":
        check_fingerprint(base, recorded["fingerprint"], str(folder))


def start_from(model: PeftModel, folder: Path) -> None:
    """Give a new adapter the values of the one in a folder; on the meta device its sizes are compared alone.

    Raises:
        UserError: a broken adapter, or one that does not fit the base; names what.
    """
    adapter = AdapterFile(folder)
    adapter.check_fits(adapted_layers(model))
    if model.device.type != "meta":
        adapter.check_values()
        fill(model, adapter)


def train_only(model: PeftModel, part: str, method: str) -> None:
    """Leave nothing to train but the tensors of one kind, such as `router`.

    Raises:
        UserError: the adapter has none.
    """
    kept = [p for name, p in model.named_parameters() if p.requires_grad and f".weave_{part}." in name]
    if not kept:
        raise UserError(
            f"train.only: {part}: this adapter ({method}) has none; one with a {part} has gate 'token', such as an "
            "assembled one (loraweave assemble --gate token)"
        )
    model.requires_grad_(False)
    for parameter in kept:
        parameter.requires_grad_(True)
