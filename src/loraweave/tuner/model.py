"""The PEFT method: puts a `WeaveLinear` in the place of every targeted layer."""

import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from peft.utils import AuxiliaryTrainingWrapper, TaskType
from peft.utils.other import get_pattern_key
from torch import nn

from loraweave.config import WeaveConfig
from loraweave.errors import Notice, UserError
from loraweave.tuner.block import WeaveBlock
from loraweave.tuner.context import CallContext, attach, detach
from loraweave.tuner.depth import heads_pattern
from loraweave.tuner.generation import unwrap_generate, wrap_generate
from loraweave.tuner.layer import WeaveLinear
from loraweave.tuner.sizes import is_block
from loraweave.tuner.weighted import check_sum, weighted_layers
from loraweave.tuner.wrappers import without_checkpoint_wrappers


class WeaveModel(BaseTuner):
    """A model with Weave adapters, made by `peft.get_peft_model(model, WeaveConfig(...))`.

    Calls take `tasks`: names or ids, one for all, one per sequence, or a LongTensor (batch,) or (batch, tokens).
    """

    prefix = "weave_"
    tuner_layer_cls = WeaveLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT reads a class attribute; the default is "all-linear")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's, and a warning of what would silently do nothing: heads that never part, numbers of heads for layers
        that are not there, weights of experts that "all-linear" leaves out. UserError: a `block_size` without a block.

        TRL's trainers train the adapter "default" and go by an adapter "ref" as it was before: they add one with the
        very same configuration object and then copy the tensors that they know by PEFT's LoRA's names. So the tensors
        of an adapter that is added like this are copied here.
        """
        config = self.peft_config[adapter_name]
        all_linear = config.target_modules == "all-linear"
        reference = adapter_name == "ref" and config is self.peft_config.get("default")
        if config.heads_by_depth:
            config.num_heads_pattern = {**config.num_heads_pattern, **heads_pattern(model, config.heads_by_depth)}
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if reference:
            self._copy_tensors("default", "ref")
        wrap_generate(model)
        layers = [m for m in self.model.modules() if isinstance(m, WeaveLinear) and adapter_name in m.knobs]
        config.beside_blocks = any(isinstance(layer, WeaveBlock) for layer in layers)
        _check_is_used(config, [layer.layer_name for layer in layers])
        if all_linear:
            warn_of_fused_experts(model)

    def _copy_tensors(self, source: str, target: str) -> None:
        """Give one adapter, frozen, the values that another has now, in every layer."""
        for layer in self.model.modules():
            if isinstance(layer, WeaveLinear) and source in layer.knobs:
                for name in layer.knobs[source].tensors:
                    tensors = getattr(layer, name)
                    tensors[target] = nn.Parameter(tensors[source].detach().clone(), requires_grad=False)

    def _create_and_replace(
        self,
        peft_config: WeaveConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(target, WeaveLinear):
            check_is_called(parent, target_name, current_key)
            _check_is_outside(self.model, current_key)
            routed = may_be_routed(self.model, current_key)
            layer = _adapted_layer(target, current_key, attach(self.model), peft_config, routed)
            layer.set_adapter(self.active_adapters)
            layer.train(target.training)  # an adapter added to a model in eval mode has no dropout there
            # Before it has tensors: PEFT moves them to the base's device, where an offloaded base would lose them.
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config, peft_config.inference_mode)
        if layer is not target and adapter_name not in self.active_adapters:
            layer.requires_grad_(False)

    @staticmethod
    def _check_target_module_exists(peft_config: WeaveConfig, key: str) -> Any:
        # A new head is trained whole, and "all-linear" must not adapt it too. PEFT adds a token classifier's head to
        # modules_to_save only after the layers have been chosen.
        whole = [*(peft_config.modules_to_save or ())]
        if peft_config.task_type == TaskType.TOKEN_CLS:
            whole += ["classifier", "score"]
        if any(key == name or key.endswith(f".{name}") for name in whole):
            return False
        found = check_target_module_exists(peft_config, key)
        if found is True and peft_config.layers_to_transform is not None:
            # PEFT adapts a layer given by its full name, as "all-linear" gives them, whatever its index: ask again
            # with a key that only the ending of a name can match.
            return check_target_module_exists(peft_config, f".{key}")
        return found

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, (WeaveBlock, AuxiliaryTrainingWrapper)):  # PEFT hands on a weight: these may have none
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        detach(model)
        unwrap_generate(model)
        return model

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "cat"
    ) -> None:
        """Add the sum Σ weight · adapter as one new adapter, exactly; it is frozen, and not active until set.

        Several adapters become one head whose rank is the sum of theirs; if any needs tasks, with a transform per task.
        One adapter alone keeps its method, whatever it is.

        Args:
            adapters: names of those that are summed.
            weights: the factor of each.
            adapter_name: the new one's.
            combination_type: "cat"; PEFT's others are refused.

        Raises:
            UserError: a method that weighs heads by the input, different tasks, modules_to_save or trained biases, an
                unknown or existing name, or another `combination_type` than "cat".
        """
        check_sum(self.peft_config, adapters, weights, adapter_name, combination_type)
        config, tensors = weighted_layers(self.model, self.peft_config, adapters, weights)
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for name, values in tensors.items():
            layer = self.model.get_submodule(name)
            for parameter, value in values.items():
                new = getattr(layer, parameter)[adapter_name]
                new.data = value.to(new.device, new.dtype)
        self.set_requires_grad(adapter_name, requires_grad=False)

    @classmethod
    def _get_adapter_state_dict(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        with without_checkpoint_wrappers(model):
            return super()._get_adapter_state_dict(model, *args, **kwargs)

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        with without_checkpoint_wrappers(model):
            return super()._remap_adapter_state_dict_for_load(model, *args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Iterator[None]:
        """PEFT enters this around every call; it drops `adapter_names` afterwards, so this is where to refuse it."""
        if adapter_names is not None:
            raise UserError(
                "adapter_names: Weave adapters cannot change from row to row; use set_adapter and one adapter per "
                "batch, or one adapter with tasks, which may change with every token"
            )
        yield


def _adapted_layer(
    target: nn.Module, path: str, context: CallContext, config: WeaveConfig, routed: bool
) -> WeaveLinear:
    """A layer with room for adapters in it, or a block with room beside it; `routed` as of WeaveLinear."""
    if not is_block(target):
        return WeaveLinear(target, path, context, routed=routed)
    return WeaveBlock(target, path, context, config.block_size, routed)


def _check_is_outside(model: nn.Module, path: str) -> None:
    """Refuse a layer within a block that is adapted as a whole: the block's own name has changed by now."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        outer = ".".join(parts[:end])
        if isinstance(model.get_submodule(outer), WeaveBlock):
            raise UserError(f"layer {path} is within the block {outer}, which is adapted as a whole: target either")


def check_is_called(parent: nn.Module, name: str, path: str) -> None:
    """Refuse a layer whose owner reads its weight instead of calling it: an adapter would silently do nothing."""
    read: list[str] = []
    if isinstance(parent, nn.MultiheadAttention):
        read = ["out_proj"]
    elif hasattr(parent, "A_log") and hasattr(parent, "D"):  # a Mamba mixer; Mamba 2 has no dt_proj
        read = ["x_proj", "dt_proj", "out_proj"] if hasattr(parent, "dt_proj") else ["out_proj"]
    if name in read:
        raise UserError(
            f"layer {path}: {type(parent).__name__} reads its weight without calling it, always or in its fused "
            f"kernels, so an adapter there would do nothing; leave it out: exclude_modules={read}"
        )
    if isinstance(parent, nn.TransformerEncoderLayer) and torch.backends.mha.get_fastpath_enabled():
        raise UserError(
            f"layer {path}: outside of training nn.TransformerEncoderLayer reads its weights in a fused kernel, where "
            "an adapter would do nothing; call torch.backends.mha.set_fastpath_enabled(False) first"
        )


def may_be_routed(model: nn.Module, path: str) -> bool:
    """Whether a layer may be called on tokens that a router chose: one of several experts, or of a list within the list
    of blocks."""
    if re.search(r"expert[^.]*(\d|\.(\w*_)?\d+)(\.|$)", path, re.IGNORECASE):
        return True
    names = path.split(".")
    owners = [model.get_submodule(".".join(names[:end])) for end in range(1, len(names))]
    return sum(isinstance(owner, (nn.ModuleList, nn.ModuleDict)) for owner in owners) > 1


def _check_is_used(config: WeaveConfig, layers: list[str]) -> None:
    """Refuse a size of blocks where no adapted layer is one; warn of knobs that do nothing on these layers."""
    if config.block_size and not config.beside_blocks:
        raise UserError(f"block_size={config.block_size} is of whole blocks, and the target modules are linear layers")
    if config.inference_mode:
        return
    if config.heads_stay_alike:
        warnings.warn(
            "gate='uniform' with a shared A and B = 0: all heads get the same gradient and stay alike, worth no more "
            "than one; use head_dropout with lora_dropout, down='per_head', or another gate or start",
            Notice,
            stacklevel=3,
        )
    for pattern in config.num_heads_pattern if not config.heads_by_depth else ():
        if not any(get_pattern_key([pattern], layer) == pattern for layer in layers):
            warnings.warn(f"num_heads_pattern names {pattern!r}, which fits no adapted layer", Notice, stacklevel=3)


def warn_of_fused_experts(model: nn.Module, adapted: Collection[str] = ()) -> None:
    """Name the weights that are a stack of matrices, one per expert: they are no linear layers and stay as they are.

    Args:
        adapted: weights by their names that PEFT's own LoRA has adapted.
    """
    fused: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, (WeaveLinear, nn.ParameterDict, nn.modules.conv._ConvNd)):
            continue
        for parameter, tensor in module.named_parameters(recurse=False):
            path = f"{name}.{parameter}".replace("base_layer.", "")
            if tensor.ndim == 3 and min(tensor.shape) > 1 and path not in adapted:
                key = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", path)
                fused[key] = fused.get(key, 0) + 1
    if fused:
        listed = ", ".join(f"{key} ({count})" for key, count in fused.items())
        warnings.warn(
            f'target_modules="all-linear" does not reach the weights of experts that the model keeps fused in one '
            f"tensor: {listed}; these stay frozen and unadapted",
            Notice,
            stacklevel=2,
        )
