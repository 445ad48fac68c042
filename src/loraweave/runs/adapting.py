"""Put a method's adapter on a base model for a while, and leave the base as it was."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora.variants import QALoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from loraweave.adapters.config import changes_base
from loraweave.adapters.fields import Adapted, check_expressions, check_layer_names, check_saved
from loraweave.errors import UserError, in_a_line
from loraweave.runs.filling import check_start, start_from, train_only
from loraweave.runs.language import check_excluded, freeze_beside_language
from loraweave.runs.methods import ChosenMethod
from loraweave.tuner.context import detach
from loraweave.tuner.model import warn_of_fused_experts

_REFUSALS = (ValueError, TypeError, NotImplementedError, ImportError, IndexError, KeyError)


@contextmanager
def adapted(
    base: PreTrainedModel,
    method: ChosenMethod,
    task_names: Sequence[str],
    seed: int,
    keep_base: bool,
    only: str | None = None,
) -> Iterator[PreTrainedModel | PeftModel]:
    """The model to train.

    Args:
        base: untouched afterwards: the adapter is taken off again, and `requires_grad` is what it was.
        method: with what the run file sets of it.
        task_names: the tasks in the order of their ids.
        seed: of the adapter's start.
        keep_base: full fine-tuning trains a copy, because the base is still needed afterwards.
        only: "router" to train the routers of an adapter that is there and leave its experts as they are.

    Raises:
        UserError: the method's configuration is not possible, or does not fit the base's layers; the adapter to train
            on is of another base or of other tasks; there is no router to train alone.
    """
    if only is not None and method.adapter is None:
        raise UserError(
            f"train.only: {only} leaves the experts of an adapter as they are, and those of {method.name} are new: "
            "name one whose experts are trained, method: {adapter: FOLDER}"
        )
    config = method.peft_config(task_names, base)
    check_excluded(base, method.given.get("exclude_modules"))
    if config is None:
        model = copy.deepcopy(base) if keep_base else base
        if method.method.trains == "everything":
            model.float().requires_grad_(True)  # AdamW's small steps are lost in bfloat16 weights
            freeze_beside_language(model)
        yield model
        return
    set_seed(seed)
    names = [name for name, _ in base.named_modules()]
    check_expressions(config, names, f"method {method.name}")
    check_saved(config, names, f"method {method.name}")
    if method.adapter is not None:
        check_start(method.adapter, config, task_names, base)
    with unchanged(base):
        model = inject(base, config, method.name)
        freeze_beside_language(base)  # `bias: all` trains those of every part
        try:
            found = _adapted_in(model, config)
            check_layer_names(method.given, names, found, f"method {method.name}")
            everywhere = method.adapter is None and method.given.get("target_modules", "all-linear") == "all-linear"
            if everywhere and isinstance(config, LoraConfig):
                warn_of_fused_experts(base, set(found.weights))
            _check_head(base, method.name)
            _check_grouped(model, config, method.name)
            if method.adapter is not None:
                start_from(model, method.adapter)
            if only is not None:
                train_only(model, only, method.name)
            yield model
        finally:
            take_off(model)


def _adapted_in(model: PeftModel, config: PeftConfig) -> Adapted:
    """What an adapter was put on. PEFT makes weights of targets that transformers has fused (experts)."""
    weights = getattr(model.base_model, "targeted_parameter_names", ())
    targets = getattr(config, "target_modules", None)
    return Adapted(model.base_model.targeted_module_names, weights, targets if weights else None)


def _check_head(base: PreTrainedModel, method: str) -> None:
    """Refuse an adapter on the head: the loss multiplies by its weight without calling it (TRL's fused head)."""
    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        name = next(path for path, module in base.named_modules() if module is head)
        raise UserError(
            f"method {method}: target_modules reaches {name}, the base's head: the loss reads its weight without "
            f"calling it, so an adapter there would learn nothing; leave it out, or train it whole with "
            f"modules_to_save: [{name}]"
        )


def _check_grouped(model: PeftModel, config: PeftConfig, method: str) -> None:
    """Refuse QA-LoRA where PEFT trains a usual LoRA in its place without a word: on all layers but GPTQ's."""
    if not getattr(config, "use_qalora", False):
        return
    variants = [kind for module in model.modules() for kind in getattr(module, "lora_variant", {}).values()]
    if not any(isinstance(kind, QALoraLinearVariant) for kind in variants):
        raise UserError(
            f"method {method}: use_qalora groups the inputs of GPTQ's layers alone, and the method reaches none here: "
            "leave it out, or take a base that GPTQ has quantised"
        )


def inject(base: PreTrainedModel, config: PeftConfig, method: str) -> PeftModel:
    """The base with a new adapter. Where a layer refuses it, the layers before that one are given back.

    A start such as PiSSA's changes the base's own weights, and trained biases are its own: they are kept, on the CPU,
    until `take_off` puts them back.
    """
    modules, depth = dict(base.named_modules()), getattr(base.config, "num_hidden_layers", None)
    biases = getattr(config, "bias", "none") != "none"
    weights = {
        name: weight.detach().to("cpu", copy=True)
        for name, weight in base.named_parameters()
        if (changes_base(config) or (biases and "bias" in name)) and not weight.is_meta
    }
    try:
        model = get_peft_model(base, config)
        model.weights_before, model.modules_before, model.depth_before = weights, modules, depth
        return model
    except Exception as error:
        _reinstate(modules)
        _set_depth(base, depth)
        base.__dict__.pop("peft_config", None)
        _put_back(base, weights)
        detach(base)
        if isinstance(error, _REFUSALS) and not isinstance(error, UserError):  # PEFT's and torch's words
            said = f"there is no {error}" if isinstance(error, KeyError) else in_a_line(error)
            raise UserError(f"method {method}: {said}{_cure(error, config, modules)}") from error
        raise


def _cure(error: Exception, config: PeftConfig, modules: Mapping[str, nn.Module]) -> str:
    """What to do where PEFT's layer for weights refuses a setting; `modules` of the base, by path."""
    if "ParamWrapper" not in str(error):
        return ""
    base: Any = modules[""]
    head = base.get_output_embeddings()
    linear = {
        path.rpartition(".")[2]
        for path, module in modules.items()
        if isinstance(module, nn.Linear) and module is not head
    }
    without = "" if getattr(config, "use_dora", False) else "set lora_dropout: 0, or "
    return (
        " That is how PEFT adapts weights that are no layers, such as the experts of this base; "
        f"{without}name layers alone, target_modules: [{', '.join(sorted(linear))}]"
    )


def take_off(model: PeftModel) -> PreTrainedModel:
    """Remove every adapter from a model, without merging; returns the base, with its own modules and weights."""
    base: PreTrainedModel = model.unload()
    _reinstate(getattr(model, "modules_before", {}))  # where PEFT leaves the trained copies of modules_to_save
    _set_depth(base, getattr(model, "depth_before", None))
    base.__dict__.pop("peft_config", None)  # PEFT takes this for a model that still has an adapter
    _put_back(base, getattr(model, "weights_before", {}))
    return base


def _set_depth(base: PreTrainedModel, layers: int | None) -> None:
    """Give the number of layers back that `layer_replication` has written into a base's configuration."""
    if layers is not None:
        base.config.num_hidden_layers = layers


def _reinstate(modules: Mapping[str, nn.Module]) -> None:
    """Put a model's modules in their places; `modules`: by path, the model itself under ""."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if name:
            modules[parent]._modules[child] = module


@torch.no_grad()
def _put_back(base: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        parameter = base.get_parameter(name)
        if parameter.dtype != weight.dtype:  # a bias is trained in float32
            parameter.data = parameter.data.to(weight.dtype)
        parameter.copy_(weight)


@contextmanager
def unchanged(base: PreTrainedModel) -> Iterator[None]:
    """Give `requires_grad`, gradient checkpointing and the mode back as they were."""
    trainable = [(p, p.requires_grad) for p in base.parameters()]  # not by name: FSDP's checkpointing renames modules
    checkpointing, training = base.is_gradient_checkpointing, base.training
    try:
        yield
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)
            parameter.grad = None
        if base.is_gradient_checkpointing and not checkpointing:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
        base.train(training)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
