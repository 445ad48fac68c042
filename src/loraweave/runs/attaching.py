"""Put a trained adapter from a folder on a base model: nothing is scored or used before all of it is found to fit."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loraweave.adapters.config import check_lost_start
from loraweave.adapters.fields import check_expressions, check_saved
from loraweave.adapters.file import AdapterFile
from loraweave.errors import UserError, in_a_line
from loraweave.runs.adapting import inject, take_off
from loraweave.runs.filling import adapted_layers, fill


def attach(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The base with the adapter in `folder` on it, not trainable.

    The folder is read and checked first; then its layers are compared with those that its configuration adapts in
    this base, and its tensors with those that PEFT asks for.

    Args:
        base: the model that the adapter was trained on. After an error it is as it was.
        folder: of the adapter, written by PEFT's `save_pretrained`.

    Raises:
        UserError: no adapter, a broken one, or one of another base; the tensor, layer or field is named.
    """
    adapter = AdapterFile(folder)
    adapter.check_values()
    model = _injected(base, adapter)
    try:
        fill(model, adapter)
    except BaseException:
        take_off(model)
        raise
    return model


def check_fits(base: PreTrainedModel, adapter: AdapterFile) -> None:
    """Compare an adapter's layers with those that its configuration adapts in a base, which may be on the meta device.

    Raises:
        UserError: layers that are missing, surplus or of another size; named.
    """
    take_off(_injected(base, adapter))


def _injected(base: PreTrainedModel, adapter: AdapterFile) -> PeftModel:
    """The base with an adapter as its configuration asks for, not yet filled, whose layers are those in the file."""
    config: Any = adapter.config
    where = f"{adapter.folder}: adapter_config.json"
    names = [name for name, _ in base.named_modules()]
    check_expressions(config, names, where)
    check_saved(config, names, where)
    check_lost_start(config, where)
    config.inference_mode = True
    try:
        model = inject(base, config, getattr(config, "method", "lora"))
    except UserError as error:
        raise UserError(f"{where} does not fit the base: {error}") from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what PEFT makes of values that nobody gives
        raise UserError(f"{where} cannot be put on the base: {type(error).__name__}: {in_a_line(error)}") from error
    try:
        adapter.check_fits(adapted_layers(model))
    except BaseException:
        take_off(model)
        raise
    return model
