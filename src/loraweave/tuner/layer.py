"""The one adapted layer: any linear layer, with any combination of knobs.

`WeaveLinear.forward` is the algebra of `loraweave.lowrank` around the frozen layer: everything that reads x is stacked
into one product, everything that writes y into another, which is added into the base's output.
"""

from typing import Any

import torch
from peft.tuners.tuners_utils import _get_in_out_features
from torch import Tensor, nn
from torch.nn.functional import dropout, linear
from transformers.pytorch_utils import Conv1D

from .. import gates, lowrank
from ..config import WeaveConfig
from ..errors import UserError
from .context import TaskContext, per_token
from .merging import MergeableLayer, quantization_of
from .parameters import FROZEN, PARAMETERS, TRAINED, AdapterTensors, Knobs, first_values


class WeaveLinear(MergeableLayer):
    """A frozen linear layer and its adapters.

    Args:
        base_layer: nn.Linear, transformers' Conv1D, a quantised linear layer, or any module with `in_features` and
            `out_features` that maps (…, d_in) to (…, d_out).
        name: the layer's path, for messages.
        task_context: shared by all adapted layers of the model.

    Raises:
        UserError: not a linear layer, or a rank above the layer's size.
    """

    adapter_layer_names = TRAINED
    other_param_names = (*FROZEN, "knobs")

    def __init__(self, base_layer: nn.Module, name: str, task_context: TaskContext) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layer_name = name
        self.task_context = task_context
        self.in_features, self.out_features = linear_size(self.get_base_layer(), name)
        self.quantization_backend = quantization_of(self.get_base_layer())
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        self.knobs: dict[str, Knobs] = {}
        for parameter in PARAMETERS:
            self.add_module(parameter, AdapterTensors())
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._unmerged_weight: Tensor | None = None

    # --- parameters -------------------------------------------------------------------------------------------------

    def update_layer(
        self, adapter_name: str, config: WeaveConfig, r: int, lora_alpha: float, inference_mode: bool
    ) -> None:
        """Add an adapter's parameters with their first values (`loraweave.starts`)."""
        limit = max(self.in_features, self.out_features)
        if r > limit:
            raise UserError(
                f"layer {self.layer_name}: rank {r} is above its size {self.in_features} → {self.out_features}; "
                f"use r ≤ {limit}, a smaller rank_pattern entry, or exclude_modules"
            )
        scaling = lora_alpha / (r**0.5 if config.use_rslora else r)
        self.knobs[adapter_name] = Knobs(config, r, scaling)
        for name, tensor in first_values(config, r, self.in_features, self.out_features).items():
            getattr(self, name)[adapter_name] = nn.Parameter(tensor, requires_grad=name not in FROZEN)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # transformers' Mamba renames the first "embedding." of what it loads, meaning its own; take it back.
        for key in [k for k in state_dict if k.startswith(f"{prefix}weave_task_embeddings.")]:
            state_dict[key.replace("weave_task_embeddings.", "weave_task_embedding.")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # Weights that accelerate offloads are nowhere between calls: an adapter goes to where they come for a call.
        hook = getattr(self.get_base_layer(), "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            if device is None and getattr(part, "offload", False):
                device = part.execution_device
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (…, d_in) -> (…, d_out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        y = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for adapter in self.active_adapters:
            if adapter in self.knobs:
                u, up = self._factors(adapter, x)
                y = _add_product(y, u, up)
        return y

    def _factors(self, adapter: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The adapter's update as one product: u (…, R) and up (R, d_out), the scaling in u."""
        knobs = self.knobs[adapter]
        config = knobs.config
        A, B = self.weave_A[adapter], self.weave_B[adapter]
        channel, router = self._get("weave_channel", adapter), self._get("weave_router", adapter)
        anchor_A, anchor_B = self._get("weave_anchor_A", adapter), self._get("weave_anchor_B", adapter)
        heads = config.num_heads
        drop = config.lora_dropout if self.training else 0.0
        if not torch.is_autocast_enabled(x.device.type):
            x = self._cast_input_dtype(x, A.dtype)

        plain = [t for t in (router, anchor_A) if t is not None]  # what reads x without dropout
        if drop and not config.head_dropout:
            u = linear(dropout(x, drop), A.flatten(0, 1))
            rest = linear(x, torch.cat(plain)) if plain else x.new_empty(0)
        else:
            rows = A.shape[0] * A.shape[1]
            u, rest = linear(x, torch.cat([A.flatten(0, 1), *plain])).tensor_split([rows], dim=-1)
        u = u.unflatten(-1, A.shape[:2])

        weights = None
        if router is not None:
            logits, rest = rest.tensor_split([heads], dim=-1)
            weights = gates.softmax_over_heads(logits)
        elif config.gate in ("task", "task_embedding"):
            weights = self._rows_of_tasks(adapter, self._task_weights(adapter), x)
        if (probe := self.task_context.probe) is not None:
            probe.see(f"{self.layer_name}.{adapter}", u, weights)
        transform = self._get("weave_task_transform", adapter)
        if transform is not None:
            transform = self._rows_of_tasks(adapter, transform, x)
        masks = None
        if drop and config.head_dropout:
            masks = dropout(u.new_ones(heads, *u.shape[:-2], knobs.r), drop)

        mixed = lowrank.mix(u, heads, weights=weights, transform=transform, masks=masks)
        up = lowrank.stack_up(B, channel=channel, merged=mixed.shape[-1] != heads * knobs.r)
        mixed = mixed * (knobs.scaling / heads if config.gate == "uniform" else knobs.scaling)
        if anchor_B is not None:
            mixed = torch.cat([mixed, (rest * knobs.scaling).to(mixed.dtype)], dim=-1)
            up = torch.cat([up, -anchor_B.T])
        return mixed, up

    def _rows_of_tasks(self, adapter: str, table: Tensor, x: Tensor) -> Tensor:
        ids = self.task_context.ids(self.knobs[adapter].config.task_names or (), x.device)
        return per_token(table, ids, x)


def linear_size(layer: nn.Module, name: str) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer; UserError naming the layer if it is not one."""
    if isinstance(layer, (nn.Linear, Conv1D)) or quantization_of(layer) is not None:
        size = _get_in_out_features(layer)
    else:
        size = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not isinstance(size[0], int) or not isinstance(size[1], int):
        raise UserError(
            f"layer {name} is a {type(layer).__name__} and cannot be adapted; possible are nn.Linear, Conv1D and "
            "modules with in_features and out_features: change target_modules or exclude_modules"
        )
    return size


def _add_product(y: Tensor, u: Tensor, up: Tensor) -> Tensor:
    """y (…, d_out) + u (…, R) @ up (R, d_out), in y's dtype."""
    if torch.is_autocast_enabled(y.device.type) or (u.dtype == y.dtype and up.dtype == y.dtype):
        rows = y.reshape(-1, y.shape[-1])
        return torch.addmm(rows, u.reshape(-1, u.shape[-1]), up).view(y.shape).to(y.dtype)
    return y + (u @ up).to(y.dtype)
