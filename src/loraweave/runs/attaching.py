"""Put a trained adapter from a folder on a base model: nothing is scored or used before all of it is found to fit."""

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from loraweave.adapters.fields import check_expressions, check_saved
from loraweave.adapters.file import VOCABULARY, AdapterFile, Size
from loraweave.errors import UserError
from loraweave.runs.adapting import inject, take_off
from loraweave.tuner import WeaveLinear


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
        _load(model, adapter)
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
    config.inference_mode = True
    try:
        model = inject(base, config, getattr(config, "method", "lora"))
    except UserError as error:
        raise UserError(f"{where} does not fit the base: {error}") from error
    try:
        adapter.check_fits(_adapted_layers(model))
    except BaseException:
        take_off(model)
        raise
    return model


def _adapted_layers(model: PeftModel) -> dict[str, Size]:
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


def _load(model: PeftModel, adapter: AdapterFile) -> None:
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
    conversions = getattr(model.get_base_model(), "_checkpoint_conversion_mapping", {})
    try:
        model.load_adapter(str(adapter.folder), "default", key_mapping=conversions)
    except Exception as error:  # PEFT, torch and safetensors raise what they like, and the file is the cause
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{adapter.folder}: the adapter cannot be loaded: {reason}") from error
