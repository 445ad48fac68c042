"""What an adapter is as a change of the weights: folded to a plain LoRA pair, or merged into the base and back."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loraweave import lowrank
from loraweave.errors import UserError
from loraweave.lowrank import gates
from loraweave.tuner.context import TaskContext
from loraweave.tuner.parameters import Knobs

MERGEABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def quantization_of(layer: nn.Module) -> Any:
    """PEFT's description of a quantised layer, or None for one that is not."""
    # PEFT wants to know for torchao's how to quantise a merged weight again; nothing is ever merged into one here.
    return resolve_quantization_backend(layer, get_apply_tensor_subclass=lambda: None)


class MergeableLayer(nn.Module, BaseTunerLayer):
    """The part of `WeaveLinear` that folds and merges; the attributes named here are set there."""

    cast_input_dtype_enabled = True  # PEFT's disable_input_dtype_casting sets it
    layer_name: str
    task_context: TaskContext
    knobs: dict[str, Knobs]
    fan_in_fan_out: bool
    quantization_backend: Any
    merged_adapters: list[str]
    _unmerged_weight: nn.Parameter | None

    def _get(self, name: str, adapter: str) -> Any:
        """An adapter's parameter, or None where its method has none of that name."""
        return getattr(self, name).get(adapter)

    def _task_weights(self, adapter: str) -> Tensor:
        """(K, N): the gates of all tasks."""
        config = self.knobs[adapter].config
        if config.gate == "task":
            return gates.task_weights(self.weave_task_logits[adapter], config.temperature)
        return gates.embedding_weights(self.weave_task_embedding[adapter], self.weave_task_gate[adapter])

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """The plain LoRA pair (lora_A (R, d_in), lora_B (d_out, R)) with ΔW = lora_B @ lora_A, scaling included.

        A method with task ids folds for one task: the one set with `loraweave.task`.

        Raises:
            UserError: the update depends on x, or one task is needed and not given.
        """
        knobs = self.knobs[adapter]
        config = knobs.config
        task = self._task_to_fold(adapter)
        weights = transform = None
        if config.has_task_gate:
            weights = self._task_weights(adapter)[task]
        if config.task_transform:
            transform = self.weave_task_transform[adapter][task]
        if config.gate == "uniform" or (config.gate == "token" and config.num_heads == 1):
            weights = self.weave_A[adapter].new_full((config.num_heads,), 1.0 / config.num_heads)
        anchor_A, anchor_B = self._get("weave_anchor_A", adapter), self._get("weave_anchor_B", adapter)
        return lowrank.fold(
            self.weave_A[adapter],
            self.weave_B[adapter],
            weights=weights,
            channel=self._get("weave_channel", adapter),
            transform=transform,
            scaling=knobs.scaling,
            anchor=(anchor_A, anchor_B) if anchor_A is not None and anchor_B is not None else None,
        )

    def _task_to_fold(self, adapter: str) -> int:
        """The id of the task to fold the adapter for, 0 where its method knows none; UserError where it cannot fold."""
        config = self.knobs[adapter].config
        if config.depends_on_input:
            raise UserError(
                f"adapter {adapter!r} ({config.method}) weighs its heads by the input, so it is no fixed change of the "
                "weights and cannot be merged or folded; serve it as it is, or train mlora, multilora or mtllora"
            )
        if not config.needs_tasks:
            return 0
        ids = self.task_context.ids(config.task_names or (), self.weave_A[adapter].device)
        if ids.numel() != 1:
            raise UserError(
                f"adapter {adapter!r} ({config.method}) folds for one task at a time, got {ids.numel()} tasks"
            )
        return int(ids.reshape(()))

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW in the base weight's own layout: (d_out, d_in), or (d_in, d_out) for Conv1D."""
        lora_A, lora_B = self.lora_factors(adapter)
        change = lora_B @ lora_A
        return change.T if self.fan_in_fan_out else change

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the adapter folds, for the task that is set if its method needs one; a warning says why not."""
        if adapter_name in self.knobs:
            try:
                self._task_to_fold(adapter_name)
            except UserError as reason:
                warnings.warn(str(reason), stacklevel=2)
                return False
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add ΔW to the base weight. The old weight is kept, so that `unmerge` gives its very bits back.

        Raises:
            UserError: the update depends on x; no task given; a quantised base; with `safe_merge`, the merged weight is
                not finite. The layer is then as it was.
        """
        adapters = [adapter for adapter in check_adapters_to_merge(self, adapter_names) if adapter in self.knobs]
        if not adapters:
            return
        if self.quantization_backend is not None:
            raise UserError(
                f"layer {self.layer_name} is quantised: merging would round the update away; "
                "merge into the unquantised base instead"
            )
        base = self.get_base_layer()
        if not isinstance(base, (nn.Linear, Conv1D)):
            raise UserError(
                f"layer {self.layer_name} is a {type(base).__name__}: what its weight means is not known, so "
                "nothing can be merged into it; only nn.Linear and Conv1D can"
            )
        weight = base._parameters.get("weight")
        if type(weight) is not nn.Parameter or weight.dtype not in MERGEABLE:
            raise UserError(
                f"layer {self.layer_name} holds its weight as {type(base.weight).__name__} of {base.weight.dtype}, not "
                "as plain numbers that an update could be added to; merge into the unquantised base instead"
            )
        merged = base.weight.data.to(torch.promote_types(base.weight.dtype, torch.float32))
        for adapter in adapters:
            merged = merged + self.get_delta_weight(adapter).to(merged.dtype)
            if safe_merge and not torch.isfinite(merged.to(base.weight.dtype)).all():
                raise UserError(  # PEFT's words, which its users and its tests look for, and the layer
                    f"layer {self.layer_name}: NaNs detected in the merged weights. The adapter {adapter} seems to be "
                    "broken; nothing was merged into this layer"
                )
        if self._unmerged_weight is None:
            self.__dict__["_unmerged_weight"] = weight  # kept, but not as a parameter of this layer
        # A new parameter and not new data: tied embeddings go on with the old one.
        base.weight = nn.Parameter(merged.to(weight.dtype), requires_grad=weight.requires_grad)
        self.merged_adapters.extend(adapters)

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if self._unmerged_weight is None:
            return
        base, old = self.get_base_layer(), self._unmerged_weight
        old.data = old.data.to(base.weight.device, base.weight.dtype)  # the model may have been moved or cast since
        base.weight = old
        self._unmerged_weight = None
        self.merged_adapters.clear()
